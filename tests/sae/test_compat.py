"""Formats are told by their files; hostile ones are refused before anything in them runs."""

import pickle

import numpy as np
import pytest
import torch

import sae
from sae.autoencoders import AUTOENCODERS
from sae.compat import Stored, build
from sparsecode.io import CorruptFileError


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_and_too_much_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        FileNotFoundError, match=r"a checkpoint of saelens, .*, which holds notes\.txt\."
    ):
        sae.load(tmp_path)
    for name in ("cfg.json", "sae.safetensors", "sae_weights.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"its files are those of saelens and of sparsify"):
        sae.load(tmp_path)
    with pytest.raises(ValueError, match=r"`given` must hold input_scale, .* only; got scale\."):
        sae.load(tmp_path, given={"scale": 1.0})
    with pytest.raises(ValueError, match=r"`input_scale` must be a finite number in \(0, inf\)"):
        sae.load(tmp_path, given={"input_scale": 0.0})
    with pytest.raises(TypeError, match=r"`threshold` must be a number in \[0, inf\); got '1'"):
        sae.load(tmp_path, given={"threshold": "1"})


def test_states_of_a_training_beside_a_checkpoint_are_no_second_one(tmp_path):
    model = sae.TopK(n_features=4, n_latents=12, k=2, seed=0)
    folder = sae.export(model, tmp_path, format="dictionary_learning")
    (folder / "checkpoints").mkdir()
    for name in ("trainer_state.pt", "checkpoints/ae_100.pt"):
        (folder / name).write_bytes((folder / "ae.pt").read_bytes())
    assert sae.load(folder).k == 2


NAMES = ["ae.pt", "sae.pt", "openai.pt", "old.pth"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_that_would_run_is_refused(tmp_path, name, legacy):
    touched = tmp_path / "touched"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    if name == "sae.pt":
        (folder / "config.json").write_text('{"sae_type": "topk", "top_k": 3}')
    state = {"W_enc": torch.ones(2, 2), "bomb": Bomb(touched)}
    torch.save(state, folder / name, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CorruptFileError, match=r"plain values only, .*Nothing in it was run"):
        sae.load(folder)
    (folder / name).write_bytes(pickle.dumps(Bomb(touched)))
    with pytest.raises(CorruptFileError, match="must hold tensors and plain values only"):
        sae.load(folder)
    assert not touched.exists()


def test_an_archive_with_a_pickle_is_refused(tmp_path):
    touched = tmp_path / "touched"
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    arrays = dict.fromkeys(names, np.ones(2)) | {"W_enc": np.array([Bomb(touched)], dtype=object)}
    np.savez(tmp_path / "params.npz", **arrays)
    with pytest.raises(CorruptFileError, match="must hold plain arrays in a NumPy archive"):
        sae.load(tmp_path)
    (tmp_path / "params.npz").write_bytes(pickle.dumps(Bomb(touched)))
    with pytest.raises(CorruptFileError, match="must hold plain arrays in a NumPy archive"):
        sae.load(tmp_path)
    with (tmp_path / "params.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(CorruptFileError, match="it is one array, not an archive of several"):
        sae.load(tmp_path)
    assert not touched.exists()


HOSTILE = {"saelens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}


@pytest.mark.parametrize("format_name", [*HOSTILE, "llama_scope", "gemma_scope"])
def test_pickles_under_the_name_of_tensors_are_refused(tmp_path, format_name):
    touched = tmp_path / "touched"
    config = {"llama_scope": "hyperparams.json", "gemma_scope": "config.json"}
    weights = {"llama_scope": "final.safetensors", "gemma_scope": "params.safetensors"}
    folder = tmp_path / "model"
    folder.mkdir()
    text = '{"architecture": "jump_relu"}' if format_name == "gemma_scope" else "{}"
    (folder / config.get(format_name, "cfg.json")).write_text(text)
    name = weights.get(format_name) or HOSTILE[format_name]
    (folder / name).write_bytes(pickle.dumps(Bomb(touched)))
    with pytest.raises(CorruptFileError, match="must hold the tensors of a safetensors file"):
        sae.load(folder)
    assert not touched.exists()


@pytest.mark.parametrize("text", ["[1]", "{", '{"a":' * 100_000, "\xff"])
def test_settings_that_are_no_object_are_refused(tmp_path, text):
    (tmp_path / "cfg.json").write_bytes(text.encode("latin-1"))
    (tmp_path / "sae.safetensors").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="must hold a JSON object; it does not"):
        sae.load(tmp_path)


def test_a_state_dict_must_be_one(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "a.pt")
    with pytest.raises(CorruptFileError, match=r"must hold a state dict; .*it holds a list"):
        sae.load(tmp_path)


def test_every_architecture_can_be_built_from_its_own_weights():
    for name in ("topk", "batch_topk", "matryoshka", "jumprelu", "gated", "relu", "transcoder"):
        made = AUTOENCODERS[name](n_features=4, n_latents=40)
        tensors = {key: tensor.bfloat16() for key, tensor in made.named_parameters()}
        model = build(Stored(name, {}, tensors, {"hookpoint": "h"}))
        assert model.W_enc.dtype == torch.bfloat16
        assert model.metadata == {"hookpoint": "h"}


def test_what_a_model_comes_from_stays_with_it(tmp_path):
    model = sae.TopK(n_features=4, n_latents=12, k=2, seed=0)
    model.metadata["hookpoint"] = "h.3"
    again = sae.load(sae.save(model, tmp_path, metadata={"base_model": "gpt2"}))
    assert again.metadata == {"hookpoint": "h.3", "base_model": "gpt2"}


def test_what_the_files_say_cannot_be_given(tmp_path):
    folder = sae.export(sae.TopK(n_features=4, n_latents=12, k=2), tmp_path, format="sparsify")
    with pytest.raises(ValueError, match="those of sparsify say everything about threshold"):
        sae.load(folder, given={"threshold": 1.0})
