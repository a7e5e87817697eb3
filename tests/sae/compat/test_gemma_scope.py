"""Gemma Scope: JumpReLU on rows as they are, in both forms, autoencoders and transcoders."""

import numpy as np
import pytest
import torch

import sae

SECOND = {"architecture": "jump_relu", "model_name": "gemma-3-1b", "hf_hook_point_in": "in"}


@pytest.fixture
def arrays(weights, threshold):
    return {**weights, "threshold": threshold}


def archive(folder, tensors):
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
    return folder


def codes_of(x, w):
    z = x @ w["W_enc"] + w["b_enc"]
    return z * (z > w["threshold"])


def test_the_archive(tmp_path, arrays, x, same):
    folder = archive(tmp_path, arrays)
    codes = codes_of(x, arrays)
    recon = codes @ arrays["W_dec"] + arrays["b_dec"]
    for path in (folder, folder / "params.npz"):
        same(sae.load(path), x, codes, recon)
    assert isinstance(sae.load(folder), sae.JumpReLU)
    model = sae.load(folder, given={"transcoder": True})
    same(model, x, codes, recon)
    assert isinstance(model, sae.Transcoder)


def test_small_letters_and_other_widths_make_a_transcoder(tmp_path, arrays, x, same):
    w = {**arrays, "W_dec": arrays["W_dec"][:, :4], "b_dec": arrays["b_dec"][:4]}
    named = {name.replace("W_", "w_"): tensor for name, tensor in w.items()}
    model = sae.load(archive(tmp_path, named))
    codes = codes_of(x, w)
    same(model, x, codes, codes @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("target", ["in", "out"])
def test_the_second_form(put, arrays, x, same, target, affine):
    named = {name.replace("W_", "w_"): tensor for name, tensor in arrays.items()}
    skip = torch.randn(6, 6)  # from features to targets
    named |= {"affine_skip_connection": skip} if affine else {}
    config = {**SECOND, "hf_hook_point_out": target, "affine_connection": affine}
    model = sae.load(put(config_dot_json=config, params_dot_safetensors=named))
    codes = codes_of(x, arrays)
    recon = codes @ arrays["W_dec"] + arrays["b_dec"] + (x @ skip if affine else 0.0)
    same(model, x, codes, recon)
    assert isinstance(model, sae.Transcoder) == (affine or target == "out")


def test_what_is_not_known_is_refused(put, tmp_path, arrays):
    config = {**SECOND, "architecture": "topk"}
    with pytest.raises(ValueError, match=r"the architecture 'topk' is not jump_relu"):
        sae.load(put(config_dot_json=config, params_dot_safetensors=arrays))
    config = {**SECOND, "affine_connection": True}
    with pytest.raises(ValueError, match="affine_connection is True and the weights say otherwise"):
        sae.load(put(config_dot_json=config, params_dot_safetensors=arrays))
    crossed = {**arrays, "W_dec": torch.ones(20, 2, 6)}
    with pytest.raises(ValueError, match="its latents decode to several layers"):
        sae.load(put(config_dot_json=SECOND, params_dot_safetensors=crossed))
    arrays.pop("threshold")
    with pytest.raises(ValueError, match=r"must hold W_dec, W_enc, b_dec, .*; it lacks threshold"):
        sae.load(archive(tmp_path, arrays) / "params.npz")


def test_a_folder_of_transcoders_holds_transcoders(tmp_path, arrays, x, same):
    """The archives look the same; the names of the folders tell, unless the caller does."""
    for name, kind in (("gemma-scope-2b-pt-transcoders", sae.Transcoder), ("res", sae.JumpReLU)):
        folder = tmp_path / name / "layer_3" / "width_16k"
        folder.mkdir(parents=True)
        archive(folder, arrays)
        assert isinstance(sae.load(folder), kind)
        assert isinstance(sae.load(folder / "params.npz"), kind)
        codes = codes_of(x, arrays)
        same(sae.load(folder), x, codes, codes @ arrays["W_dec"] + arrays["b_dec"])
    transcoder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3" / "width_16k"
    assert isinstance(sae.load(transcoder, given={"transcoder": False}), sae.JumpReLU)
    with pytest.raises(ValueError, match="a transcoder has no scale of the input"):
        sae.load(transcoder, given={"input_scale": 0.5})


def test_embeddings_that_the_model_has_scaled(tmp_path, arrays, x, same):
    codes = codes_of(x, arrays)
    recon = codes @ arrays["W_dec"] + arrays["b_dec"]
    model = sae.load(archive(tmp_path, arrays), given={"input_scale": 6**-0.5})
    same(model, x * 6**0.5, codes, recon * 6**0.5)


def test_an_archive_is_not_read_lazily(tmp_path, arrays, x):
    folder = archive(tmp_path, arrays)
    with pytest.raises(ValueError, match=r"to be read lazily; they lie in an archive of NumPy"):
        sae.LazyAutoencoder(folder)
    again = sae.LazyAutoencoder(sae.save(sae.load(folder), tmp_path / "ours"), block=7)
    torch.testing.assert_close(again(x), sae.load(folder)(x))
