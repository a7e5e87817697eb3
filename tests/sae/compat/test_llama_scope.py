"""Llama Scope: rows times sqrt(d) / norm, and a threshold that is compared as it is stored."""

import json

import pytest
import torch

import sae

BASE = {
    "d_model": 6,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.4,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 5.0, "out": 5.0},
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "sparsity_include_decoder_norm": True,
    "hook_point_in": "blocks.8.hook_resid_post",
    "hook_point_out": "blocks.8.hook_resid_post",
}


def tensors(w):
    names = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    return {**names, "decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}


def jump(z, w, theta, *, by_norm=True):
    """What OpenMOSS computes: a latent fires where its contribution is long enough."""
    return z * (z * (w["W_dec"].norm(dim=1) if by_norm else 1.0) > theta)


def files(put, values, **config):
    weights = {"checkpoints__final_dot_safetensors": values}
    return put(hyperparams_dot_json={**BASE, **config}, **weights)


def test_the_scale_of_the_rows_is_folded_and_the_threshold_is_not(put, weights, x, same):
    w, s = weights, 6**0.5 / 5.0
    z = x * s @ w["W_enc"] + w["b_enc"]
    codes = jump(z, w, 0.4)
    model = sae.load(files(put, tensors(w)))
    same(model, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / s)
    assert isinstance(model, sae.JumpReLU)


@pytest.mark.parametrize("flag", [True, False, None])
def test_the_norms_of_the_decoder_count_where_the_flag_says_so(put, weights, x, same, flag):
    w = {**weights, "W_dec": weights["W_dec"].clone()}
    w["W_dec"][3] = 0.0  # it cannot exceed the threshold
    folder = files(put, tensors(w), norm_activation="inference", sparsity_include_decoder_norm=flag)
    if flag is None:  # the library's default
        config = json.loads((folder / "hyperparams.json").read_text())
        config.pop("sparsity_include_decoder_norm")
        (folder / "hyperparams.json").write_text(json.dumps(config))
    codes = jump(x @ w["W_enc"] + w["b_enc"], w, 0.4, by_norm=flag is not False)
    same(sae.load(folder), x, codes, codes @ w["W_dec"] + w["b_dec"])


def test_an_autoencoder_needs_no_norm_of_a_target(put, weights, x):
    both = sae.load(files(put, tensors(weights)))
    one = sae.load(files(put, tensors(weights), dataset_average_activation_norm={"in": 5.0}))
    assert torch.equal(one(x), both(x))
    with pytest.raises(ValueError, match="their mean norm, which the files lack"):
        sae.load(files(put, tensors(weights), dataset_average_activation_norm={"in": 5.0},
                       hook_point_out="elsewhere"))  # fmt: skip


def test_a_transcoder_has_a_scale_for_its_target(put, weights, x, same):
    w, s, t = weights, 6**0.5 / 5.0, 6**0.5 / 2.0
    config = {"hook_point_out": "blocks.8.hook_mlp_out"}
    config["dataset_average_activation_norm"] = {"in": 5.0, "out": 2.0}
    z = x * s @ w["W_enc"] + w["b_enc"]
    codes = jump(z, w, 0.4)
    model = sae.load(files(put, tensors(w), **config))
    same(model, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / t)
    assert isinstance(model, sae.Transcoder)


def test_other_normalizations_and_a_subtracted_bias(put, weights, x, same):
    w = weights
    config = {"norm_activation": "inference", "apply_decoder_bias_to_pre_encoder": True}
    z = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    same(
        sae.load(files(put, tensors(w), **config)),
        x,
        c := jump(z, w, 0.4),
        c @ w["W_dec"] + w["b_dec"],
    )
    s = 6**0.5 / x.norm(dim=-1, keepdim=True)
    z = x * s @ w["W_enc"] + w["b_enc"]
    codes = jump(z, w, 0.4)
    model = sae.load(files(put, tensors(w), norm_activation="token-wise"))
    same(model, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / s)


def test_the_later_form_stores_the_logarithm(put, weights, x, same, threshold):
    w, s = weights, 0.3
    values = {**tensors(w), "log_jumprelu_threshold": threshold.log()}
    config = {name: value for name, value in BASE.items() if "average" not in name}
    folder = put(config_dot_json=config, sae_weights_dot_safetensors=values)
    with pytest.raises(ValueError, match=r"sqrt\(d_model\) / their mean norm, which the files"):
        sae.load(folder)
    z = x * s @ w["W_enc"] + w["b_enc"]
    codes = jump(z, w, threshold)
    model = sae.load(folder, given={"input_scale": s})
    same(model, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / s)


def test_topk_and_relu(put, weights, x, same, keep):
    w = {**weights, "W_dec": weights["W_dec"] / weights["W_dec"].norm(dim=1, keepdim=True)}
    s = 6**0.5 / 5.0
    z = x * s @ w["W_enc"] + w["b_enc"]
    for config, codes in (
        ({"act_fn": "topk", "top_k": 3}, keep(z, 3)),
        ({"act_fn": "relu"}, z.relu()),
    ):
        model = sae.load(files(put, tensors(w), **config))
        same(model, x, codes, (codes @ w["W_dec"] + w["b_dec"]) / s)
    with pytest.raises(
        ValueError, match="selected by code times decoder norm, and the norms differ"
    ):
        sae.load(files(put, tensors(weights), act_fn="topk", top_k=3))


def test_without_a_bias_of_the_decoder(put, weights, x):
    values = tensors(weights)
    values.pop("decoder.bias")
    assert not sae.load(files(put, values, use_decoder_bias=False)).b_dec.any()


REFUSED = {
    "glu": ({"use_glu_encoder": True}, "its encoder is gated by a second one"),
    "activation": ({"act_fn": "lorsa"}, "'lorsa' is not jumprelu, topk or relu"),
    "norm": (
        {"norm_activation": "batch-wise"},
        "'batch-wise' depends on the batch or is not known",
    ),
    "type": ({"sae_type": "crosscoder"}, "its sae_type is 'crosscoder', not 'sae', but a cross"),
    "layers": ({"sae_type": "clt"}, "not 'sae', but a cross-layer transcoder, whose latents"),
    "heads": ({"sae_type": "lorsa"}, "not 'sae', but low-rank sparse attention"),
    "unheard of": ({"sae_type": "x"}, "its sae_type is 'x', not 'sae'\\."),
    "norms": ({"dataset_average_activation_norm": {"in": 0.0, "out": 1.0}}, "are not positive"),
    "target": (
        {"norm_activation": "token-wise", "hook_point_out": "elsewhere"},
        "the norm of each target is not known",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused(put, weights, case):
    config, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        sae.load(files(put, tensors(weights), **config))


def test_a_missing_threshold_is_refused(put, weights):
    folder = files(put, tensors(weights))
    config = json.loads((folder / "hyperparams.json").read_text())
    config.pop("jump_relu_threshold")
    (folder / "hyperparams.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="must have the setting 'jump_relu_threshold'; it has none"
    ):
        sae.load(folder)
    assert torch.is_tensor(weights["b_enc"])
