"""Bussmann's repositories: the encoder's bias is stored and not used where k selects."""

import pytest
import torch

import sae


def files(put, kind, state, **config):
    config = {"sae_type": kind, "top_k": 3, "act_size": 6, "dict_size": 20, **config}
    return put(config_dot_json=config, sae_dot_pt=state)


def normalized(x):
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    return (x - mean) / (deviation + 1e-5), mean, deviation


@pytest.mark.parametrize("kind", ["batchtopk", "batch-topk", "global-matryoshka-topk"])
@pytest.mark.parametrize("unit", [True, False])
def test_selection_over_a_batch(put, weights, x, same, kind, unit):
    w = weights
    rows, mean, scale = normalized(x) if unit else (x, 0.0, 1.0)
    z = ((rows - w["b_dec"]) @ w["W_enc"]).relu()
    codes = torch.where(z > 0.9, z, 0.0)
    config = {"input_unit_norm": unit, "group_sizes": "[4, 6, 10]"}
    model = sae.load(files(put, kind, {**w, "threshold": torch.tensor(0.9)}, **config))
    same(model, x, codes, (codes @ w["W_dec"] + w["b_dec"]) * scale + mean)
    if kind.startswith("global"):
        assert model.prefixes == [4, 10, 20]


def test_topk_vanilla_and_jumprelu(put, weights, x, same, keep, threshold):
    w = weights
    codes = keep((x - w["b_dec"]) @ w["W_enc"], 3)
    same(sae.load(files(put, "topk", w)), x, codes, codes @ w["W_dec"] + w["b_dec"])
    codes = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    same(sae.load(files(put, "vanilla", w)), x, codes, codes @ w["W_dec"] + w["b_dec"])
    z = (x @ w["W_enc"] + w["b_enc"]).relu()
    codes = z * (z > threshold)
    state = {**w, "jumprelu.log_threshold": threshold.log()}
    same(sae.load(files(put, "jumprelu", state)), x, codes, codes @ w["W_dec"] + w["b_dec"])


def test_a_threshold_that_is_not_stored_must_be_given(put, weights, x):
    folder = files(put, "batchtopk", weights)
    with pytest.raises(ValueError, match=r"the threshold for single rows is missing\. Give it"):
        sae.load(folder)
    assert float(sae.load(folder, given={"threshold": 0.25}).threshold) == 0.25


def test_what_is_not_known_is_refused(put, weights):
    with pytest.raises(ValueError, match="the sae_type 'gated' is not one of topk, batchtopk"):
        sae.load(files(put, "gated", weights))
    state = {**weights, "threshold": torch.tensor(0.9)}
    for sizes in ("__import__('os')", [4, 16.0], None):
        with pytest.raises(ValueError, match=r"group_sizes is .*, not whole numbers"):
            sae.load(files(put, "global-matryoshka-topk", state, group_sizes=sizes))
