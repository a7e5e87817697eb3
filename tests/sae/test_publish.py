"""Onto the hub and back: one folder a hookpoint, pages with figures, nothing sent by a dry run."""

import os
import subprocess
import sys

import pytest
import torch

import sae
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
    gone = sorted(name.partition("-")[0] for name in done.deleted)
    assert gone == ["h.3/curves.svg", "h.3/evaluation.json", "h.3/weights"]
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


def test_pages_of_others_stay(hub, model):
    model.push_to_hub(REPO, hookpoint="h.3")
    repository = hub.repos[REPO]["main"]
    for page in (
        b"# my precious page",
        b"---\nlicense: mit\n---\nlibrary_name: sparsecode\n",
        b"\xff",
    ):
        repository["README.md"] = page
        model.push_to_hub(REPO, hookpoint="h.4")
        assert repository["README.md"] == page
        model.push_to_hub(REPO)
        assert repository["README.md"] == page
    assert b"h.4" in repository["h.4/README.md"]


def test_the_page_of_a_whole_repository_stays_when_a_hookpoint_is_added(hub, model):
    model.push_to_hub(REPO)
    page = hub.repos[REPO]["main"]["README.md"]
    model.push_to_hub(REPO, hookpoint="h.4")
    assert hub.repos[REPO]["main"]["README.md"] == page
    model.push_to_hub(REPO)
    assert hub.repos[REPO]["main"]["README.md"] == page


@pytest.mark.parametrize(
    ("base", "named"), [("org/name", True), ("runs/gpt2", False), ("../up", False)]
)
def test_the_base_model_is_a_name_on_the_hub(model, monkeypatch, tmp_path, base, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "gpt2").mkdir(parents=True)
    model.metadata["base_model"] = base
    page = model.push_to_hub(REPO, dry_run=True).files["README.md"].decode()
    assert (f"base_model: {base}\n" in page) == named


def test_wrong_arguments_get_one_sentence(model, tmp_path):
    for hookpoint in ("../up", "/root", "a//b", "a b"):
        with pytest.raises(ValueError, match=r"`hookpoint` must be the name of a folder: letters"):
            model.push_to_hub(REPO, hookpoint=hookpoint, dry_run=True)
    with pytest.raises(ValueError, match=r"`repo` must be a name on the hub.*got '../../x'"):
        model.push_to_hub("../../x", dry_run=True)
    with pytest.raises(ValueError, match=r"`revision` must be None for what is not on the hub"):
        sae.load(tmp_path, revision="v1")
    with pytest.raises(FileNotFoundError, match=r"must be a folder; there is none of that name"):
        sae.load_many(tmp_path / "nothing")


def test_the_command_line_pushes_to_the_endpoint_of_the_environment(hub, run, tmp_path):
    variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_stand_in", "HF_HUB_DISABLE_XET": "1"}
    env = {**os.environ, **variables, "HF_HOME": str(tmp_path / "home"), "COLUMNS": "120"}
    command = [sys.executable, "-m", "sae", "push", str(run), REPO]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert f"{hub.url}/{REPO}/commit/" in done.stdout
    assert "h.3/config.json" in hub.repos[REPO]["main"]
