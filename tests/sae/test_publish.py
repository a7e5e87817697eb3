"""Onto the hub and back: one folder a hookpoint, pages with figures, nothing sent by a dry run."""

import os
import subprocess
import sys

import pytest
import torch

import sae
from sae.compat import export
from sae.remote import holding
from sparsecode import io

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "me/autoencoders"


@pytest.fixture
def model() -> sae.TopK:
    return sae.TopK(n_features=4, n_latents=12, k=2, seed=0)


@pytest.fixture
def run(tmp_path, model):
    """The folder of a finished training."""
    folder = tmp_path / "run"
    sae.save(model, folder / "model")
    train = {"n_steps": 40, "lr": 0.001, "out_dir": "/home/me/run", "seed": 0}
    data = {"hookpoint": "h.3", "fingerprint": "ab12", "provenance": {"model": "gpt2"}}
    config = {"format": "sparsecode.run", "format_version": 1, "train": train, "data": data}
    io.write_json(folder / "config.json", config)
    io.write_json(folder / "evaluation.json", {"fvu": 0.1234567, "l0": 2.0, "dead_fraction": 0.25})
    lines = [f'{{"step": {s}, "fvu": {1 / s}, "l0": 2.0, "split": "train"}}' for s in (1, 2, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_dry_run_needs_no_network(run, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = sae.push(run, REPO, dry_run=True)
    assert done.url is None
    names = {name.partition("/weights-")[0] for name in done.files}
    want = {"README.md", "h.3", *(f"h.3/{n}" for n in ("README.md", "config.json", "curves.svg"))}
    assert names == want | {"h.3/evaluation.json"}
    page = done.files["h.3/README.md"].decode()
    for text in ("| FVU, fraction of variance unexplained | 0.1235 |", "of a row | 2 |"):
        assert text in page
    for text in ("| n_steps | 40 |", "| provenance.model | gpt2 |", "hookpoint='h.3'", "`TopK`"):
        assert text in page
    assert "/home/me" not in page
    assert done.files["README.md"].startswith(b"---\nlibrary_name: sparsecode\ntags:\n")
    assert done.size == sum(map(len, done.files.values()))


def test_what_is_pushed_is_loaded(hub, run, model):
    done = sae.push(run, REPO)
    assert done.url.startswith(hub.url)
    x = torch.randn(5, 4)
    again = sae.load(REPO, hookpoint="h.3")
    assert again.encode(x) == model.encode(x)
    assert sae.load(REPO).config() == model.config()  # the only one
    assert isinstance(sae.TopK.from_pretrained(REPO), sae.TopK)
    with pytest.raises(TypeError, match=r"`me/autoencoders` must hold a ReLU; it holds a TopK"):
        sae.ReLU.from_pretrained(REPO)


def test_a_second_push_replaces_the_weights_and_lists_all_folders(hub, run, model):
    sae.push(run, REPO)
    with torch.no_grad():
        model.b_dec += 1.0
    done = model.push_to_hub(REPO, hookpoint="h.3")
    assert len(done.deleted) == 1
    assert len([name for name in hub.repos[REPO]["main"] if "h.3/weights-" in name]) == 1
    assert torch.equal(sae.load(REPO).b_dec, model.b_dec)
    model.metadata["hookpoint"] = "h.10"
    model.push_to_hub(REPO)
    index = hub.repos[REPO]["main"]["README.md"].decode()
    assert "[`h.10`](h.10/README.md)" in index
    assert "[`h.3`](h.3/README.md)" in index
    found = sae.load_many(REPO, "h.*")
    assert list(found) == ["h.3", "h.10"]
    assert found["h.10"].metadata == {"hookpoint": "h.10"}
    with pytest.raises(FileNotFoundError, match=r"that hold an autoencoder: h\.3, h\.10\."):
        sae.load(REPO)
    with pytest.raises(FileNotFoundError, match=r"'h\.4' is none of h\.3, h\.10\. Did you mean"):
        sae.load(REPO, hookpoint="h.4")
    with pytest.raises(FileNotFoundError, match=r"'g\*' matches none of h\.3, h\.10\."):
        sae.load_many(REPO, "g*")


def test_a_model_without_a_hookpoint_is_the_whole_repository(hub, model):
    model.push_to_hub(REPO)
    assert "config.json" in hub.repos[REPO]["main"]
    page = hub.repos[REPO]["main"]["README.md"].decode()
    assert "It was not evaluated." in page
    assert "sae.load('me/autoencoders')" in page
    assert sae.load(REPO).k == 2


def test_only_the_wanted_folder_is_fetched(hub, model, tmp_path):
    files = {}
    for name in ("layers.0", "layers.1"):
        folder = export(model, tmp_path / name, format="sparsify")
        files |= {f"{name}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    hub.put(REPO, {**files, "layers.1/optimizer.bin": b"x" * 100})
    loaded = sae.load(REPO, hookpoint="layers.1")
    assert loaded.metadata == {"format": "sparsify", "hookpoint": "layers.1"}
    fetched = [
        r.rsplit("/main/")[1] for r in hub.requests if r.startswith("GET /me/autoencoders/r")
    ]
    assert set(fetched) == {"layers.1/cfg.json", "layers.1/sae.safetensors"}


def test_revisions_and_files_of_others(hub, model):
    weights = {"encoder.weight": model.W_enc.t(), "decoder.weight": model.W_dec.t()}
    state = {**weights, "latent_bias": model.b_enc, "pre_bias": model.b_dec}
    path = hub_file(state)
    hub.put(REPO, {}, revision="main")
    hub.put(REPO, {"a.pt": path, "b.pt": path}, revision="v1")
    assert isinstance(sae.load(REPO, hookpoint="b.pt", revision="v1"), sae.ReLU)
    with pytest.raises(FileNotFoundError, match=r"`revision` must be a branch, .* it has no 'v2'"):
        sae.load(REPO, revision="v2")
    with pytest.raises(FileNotFoundError, match="that hold an autoencoder: no folder"):
        sae.load(REPO)


def hub_file(state) -> bytes:
    import io as memory

    buffer = memory.BytesIO()
    torch.save({name: tensor.detach().clone() for name, tensor in state.items()}, buffer)
    return buffer.getvalue()


def test_wrong_arguments_get_one_sentence(model, tmp_path):
    for hookpoint in ("../up", "/root", "a//b", "a b"):
        with pytest.raises(ValueError, match=r"`hookpoint` must be the name of a folder: letters"):
            model.push_to_hub(REPO, hookpoint=hookpoint, dry_run=True)
    with pytest.raises(ValueError, match=r"`revision` must be None for what is not on the hub"):
        sae.load(tmp_path, revision="v1")
    with pytest.raises(FileNotFoundError, match=r"must be a folder; there is none of that name"):
        sae.load_many(tmp_path / "nothing")


def test_many_in_a_folder(model, tmp_path):
    for name in ("h.10", "h.9", "deep/h.1"):
        sae.save(model, tmp_path / name)
    assert list(sae.load_many(tmp_path)) == ["deep/h.1", "h.9", "h.10"]
    assert list(sae.load_many(tmp_path, "h.?")) == ["h.9"]
    assert sae.load(tmp_path, hookpoint="h.9").k == 2


def test_folders_are_told_by_their_files():
    names = ["a/hyperparams.json", "a/checkpoints/final.safetensors", "b/params.npz", "c/x.json"]
    assert holding([*names, "config.json", "weights-0.safetensors"]) == ["", "a", "b"]


def test_the_command_line_pushes_to_the_endpoint_of_the_environment(hub, run, tmp_path):
    variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_stand_in", "HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **variables, "HF_HOME": str(tmp_path / "home"), "COLUMNS": "120"}
    command = [sys.executable, "-m", "sae", "push", str(run), REPO]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert f"{hub.url}/{REPO}/commit/" in done.stdout
    assert "h.3/config.json" in hub.repos[REPO]["main"]
