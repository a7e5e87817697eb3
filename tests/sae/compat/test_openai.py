"""OpenAI: rows are normalized where the activation is TopK, and codes do not remember them."""

import pytest
import torch

import sae


@pytest.fixture
def state(weights):
    return {
        "pre_bias": weights["b_dec"],
        "latent_bias": weights["b_enc"],
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "decoder.weight": weights["W_dec"].T.contiguous(),
        "stats_last_nonzero": torch.zeros(20, dtype=torch.long),
    }


def topk(k=3, postact_fn="ReLU"):
    return {"activation": "TopK", "activation_state_dict": {"k": k, "postact_fn": postact_fn}}


def test_topk_with_layer_norm(put, state, weights, x, same, keep):
    folder = put(autoencoder_dot_pt={**state, **topk()})
    mean = x.mean(-1, keepdim=True)
    std = (x - mean).std(-1, keepdim=True)
    rows = (x - mean) / (std + 1e-5)
    codes = keep((rows - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"], 3)
    recon = (codes @ weights["W_dec"] + weights["b_dec"]) * std + mean
    for path in (folder, folder / "autoencoder.pt"):
        same(sae.load(path), x, codes, recon)


def test_k_as_a_tensor_and_the_default_after_it(put, state, x):
    expected = sae.load(put(a_dot_pt={**state, **topk()}))
    state |= {"activation": "TopK", "activation_state_dict": {"k": torch.tensor(3)}}
    assert sae.load(put(a_dot_pt=state)).encode(x) == expected.encode(x)


def test_relu_without(put, state, weights, x, same):
    codes = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()
    for named in ({"activation": "ReLU", "activation_state_dict": {}}, {}):
        model = sae.load(put(a_dot_pt={**state, **named}))
        same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])


def test_what_is_not_known_is_refused(put, state):
    with pytest.raises(ValueError, match=r"'Identity' is not ReLU or TopK"):
        sae.load(put(a_dot_pt={**state, "activation": "Identity"}))
    with pytest.raises(ValueError, match=r"after TopK comes 'Identity', not ReLU"):
        sae.load(put(a_dot_pt={**state, **topk(postact_fn="Identity")}))
    with pytest.raises(ValueError, match=r"must have a whole number as 'k'; got None"):
        sae.load(put(a_dot_pt={**state, "activation": "TopK"}))
    with pytest.raises(ValueError, match=r"must have a whole number as 'k'; got 2\.5"):
        sae.load(put(a_dot_pt={**state, **topk(k=2.5)}))
    with pytest.raises(ValueError, match=r"holds other, whose meaning is not known"):
        sae.load(put(a_dot_pt={**state, "other": torch.ones(1)}))
