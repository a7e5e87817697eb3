"""Autoencoders on disk: nothing foreign is overwritten, damage and other formats are refused."""

import json

import pytest
import torch

import sae
from sparsecode import io


@pytest.fixture
def model():
    return sae.TopK(n_features=4, n_latents=12, k=2, seed=0)


def test_round_trip_keeps_bits_layout_and_metadata(model, tmp_path):
    loaded = sae.load(sae.save(model, tmp_path / "m", metadata={"hookpoint": "h.3"}))
    assert torch.equal(loaded.W_enc, model.W_enc)
    assert loaded.W_enc.t().is_contiguous()
    assert not loaded.training
    assert io.read_json(tmp_path / "m" / "config.json")["metadata"] == {"hookpoint": "h.3"}


def test_dtype_is_kept_or_changed_on_request(model, tmp_path):
    sae.save(model.to(torch.bfloat16), tmp_path)
    assert sae.load(tmp_path).W_dec.dtype == torch.bfloat16
    assert sae.load(tmp_path, dtype=torch.float32).W_dec.dtype == torch.float32


def test_saving_again_replaces_the_weights_and_only_them(model, tmp_path):
    (tmp_path / "weights_backup.safetensors").write_bytes(b"mine")
    sae.save(model, tmp_path)
    with torch.no_grad():
        model.b_dec += 1.0
    sae.save(model, tmp_path)
    assert torch.equal(sae.load(tmp_path).b_dec, model.b_dec)
    assert len(list(tmp_path.glob("weights-*.safetensors"))) == 1
    assert (tmp_path / "weights_backup.safetensors").read_bytes() == b"mine"


def test_a_foreign_model_is_not_overwritten(model, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FileExistsError, match="must be empty or hold an autoencoder of ours"):
        sae.save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "bert"}


def test_wrong_folders_get_one_sentence(model, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"must be what sae\.save .*, which holds no files\."
    ):
        sae.load(tmp_path)
    io.write_json(tmp_path / "config.json", {"format": "sparsecode.run"})
    with pytest.raises(FileNotFoundError, match="its training has not finished"):
        sae.load(tmp_path)
    io.write_json(tmp_path / "config.json", {"format": "sparsecode.sae", "format_version": 99})
    with pytest.raises(ValueError, match=r"version 1; got 'sparsecode\.sae' version 99"):
        sae.load(tmp_path)
    config = {"format": "sparsecode.sae", "format_version": 1, "architecture": "topkk"}
    io.write_json(tmp_path / "config.json", config)
    with pytest.raises(ValueError, match=r"got 'topkk'\. Did you mean 'topk'"):
        sae.load(tmp_path)


def test_an_unknown_class_is_not_saved(tmp_path):
    with pytest.raises(TypeError, match=r"`model` must be one of .*k_sparse.*; got Linear"):
        sae.save(torch.nn.Linear(2, 2), tmp_path)
