"""Which folder is meant, on a disk or on the hub, and that no other one is fetched."""

import io

import pytest
import torch

import sae
from sae.compat import export
from sae.remote import holding, is_repository

REPO = "me/autoencoders"


@pytest.fixture
def model() -> sae.TopK:
    return sae.TopK(n_features=4, n_latents=12, k=2, seed=0)


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
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().clone() for name, tensor in state.items()}, buffer)
    return buffer.getvalue()


def test_many_in_a_folder(model, tmp_path):
    for name in ("h.10", "h.9", "deep/h.1"):
        sae.save(model, tmp_path / name)
    assert list(sae.load_many(tmp_path)) == ["deep/h.1", "h.9", "h.10"]
    assert list(sae.load_many(tmp_path, "h.?")) == ["h.9"]
    assert sae.load(tmp_path, hookpoint="h.9").k == 2


def test_folders_are_told_by_their_files():
    names = ["a/hyperparams.json", "a/checkpoints/final.safetensors", "b/params.npz", "c/x.json"]
    assert holding([*names, "config.json", "weights-0.safetensors"]) == ["", "a", "b"]


def test_a_name_is_a_repository_where_there_is_no_such_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_repository("org/name")
    assert not is_repository(tmp_path / "org" / "name")
    assert not any(is_repository(name) for name in ("name", "a/b/c", "./a b", "/org/name"))
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert not is_repository("org/name")


def test_states_of_a_training_are_no_autoencoders_beside_some(model, tmp_path):
    """Single files of torch: OpenAI's where there is nothing else, and else whatever they are."""
    for name in ("trainer_0", "trainer_1"):
        folder = sae.export(model, tmp_path / name, format="dictionary_learning")
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "ae_100.pt").write_bytes((folder / "ae.pt").read_bytes())
    (tmp_path / "state.pt").write_bytes(b"of the optimizer")
    assert list(sae.load_many(tmp_path)) == ["trainer_0", "trainer_1"]
    (tmp_path / "trainer_0" / "ae.pt").unlink()
    assert sae.load(tmp_path / "trainer_1").k == 2
    names = ["state.pt", "a/ae.pt", "a/checkpoints/ae_1.pt", "b/autoencoder.pt"]
    assert holding(names) == ["a"]
    assert holding(names, doubtful=True) == ["", "a", "a/checkpoints", "b"]
    assert holding(["layer_6/autoencoder.pt", "layer_7/autoencoder.pt"]) == ["layer_6", "layer_7"]


def test_a_doubtful_folder_can_be_named(hub, model):
    weights = {"encoder.weight": model.W_enc.t(), "decoder.weight": model.W_dec.t()}
    state = {**weights, "latent_bias": model.b_enc, "pre_bias": model.b_dec}
    ours = {"ours/cfg.json": b"{}", "ours/sae.safetensors": b""}
    hub.put(REPO, {**ours, "openai/autoencoder.pt": hub_file(state)})
    assert isinstance(sae.load(REPO, hookpoint="openai"), sae.ReLU)
