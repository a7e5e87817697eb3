"""sparsify: autoencoders subtract their bias, transcoders do not; one matrix is transposed."""

import pytest
import torch

import sae


def files(put, weights, **config):
    tensors = {"encoder.weight": weights["W_enc"].T, "encoder.bias": weights["b_enc"]}
    tensors |= {name: weights[name] for name in ("W_dec", "b_dec", "W_skip") if name in weights}
    config = {"d_in": 6, "num_latents": 20, "k": 3, **config}
    return put(cfg_dot_json=config, sae_dot_safetensors=tensors)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("transcode", [False, True])
def test_both_kinds_with_and_without_skip(put, weights, x, same, keep, transcode, skip):
    w = {**weights, **({"W_skip": torch.randn(6, 6)} if skip else {})}
    model = sae.load(files(put, w, transcode=transcode, skip_connection=skip))
    codes = keep((x - w["b_dec"] * (not transcode)) @ w["W_enc"] + w["b_enc"], 3)
    recon = codes @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if skip else 0.0)
    same(model, x, codes, recon)
    assert isinstance(model, sae.Transcoder if transcode or skip else sae.TopK)
    assert model.metadata["format"] == "sparsify"


@pytest.mark.parametrize("transcode", [False, True])
def test_groupmax(put, weights, x, same, transcode):
    model = sae.load(files(put, weights, k=4, activation="groupmax", transcode=transcode))
    z = (x - weights["b_dec"] * (not transcode)) @ weights["W_enc"] + weights["b_enc"]
    best, ids = z.relu().unflatten(-1, (4, 5)).max(-1)
    codes = torch.zeros_like(z).scatter(-1, ids + torch.arange(0, 20, 5), best)
    same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])


REFUSED = {
    "activation": ({"activation": "gelu"}, r"'gelu' is not topk or groupmax"),
    "signed": ({"signed": True}, r"with signed=true the largest sizes are kept, of either sign"),
    "groups": ({"activation": "groupmax"}, r"20 latents are not 3 equal groups"),
    "skip": ({"skip_connection": True}, r"it lacks W_skip\."),
    "size": ({"d_in": 7}, r"d_in is 7 and 6 in the weights"),
    "k": ({"k": 40}, r"`k` must be an int in \[1, n_latents\]; got 40"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused(put, weights, case):
    config, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        sae.load(files(put, weights, **config))


def test_weights_of_several_dtypes_keep_the_widest(put, weights, x, same, keep):
    w = {**weights, "b_dec": weights["b_dec"].bfloat16()}
    model = sae.load(files(put, w))
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    codes = keep((x - w["b_dec"].float()) @ w["W_enc"] + w["b_enc"], 3)
    same(model, x, codes, codes @ w["W_dec"] + w["b_dec"].float())
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    assert sae.load(files(put, half)).W_enc.dtype == torch.bfloat16
