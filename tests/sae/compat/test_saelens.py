"""SAELens: each architecture and flag gives the codes of the library's own definition."""

import json

import pytest
import torch

import sae

NEW = {"d_in": 6, "d_sae": 20, "metadata": {"sae_lens_version": "6.1.0", "hook_name": "blocks.3"}}


def files(put, tensors, **config):
    return put(cfg_dot_json={**NEW, **config}, sae_weights_dot_safetensors=tensors)


def pre(x, w, *, bias=True):
    return (x - w["b_dec"] * bias) @ w["W_enc"] + w["b_enc"]


@pytest.mark.parametrize("bias", [True, False])
def test_standard(put, weights, x, same, bias):
    folder = files(put, weights, architecture="standard", apply_b_dec_to_input=bias)
    codes = pre(x, weights, bias=bias).relu()
    model = sae.load(folder)
    same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])
    assert isinstance(model, sae.ReLU)
    assert model.metadata == {"format": "saelens", "version": "6.1.0", "hookpoint": "blocks.3"}


def test_topk_selects_and_decodes_by_decoder_norms_where_the_flag_says_so(
    put, weights, x, same, keep
):
    norms = weights["W_dec"].norm(dim=1)
    for rescaled in (False, True):
        flag = {"rescale_acts_by_decoder_norm": rescaled}
        model = sae.load(files(put, weights, architecture="topk", k=3, **flag))
        codes = keep(pre(x, weights) * (norms if rescaled else 1.0), 3)
        recon = codes / (norms if rescaled else 1.0) @ weights["W_dec"] + weights["b_dec"]
        same(model, x, codes, recon)


def test_jumprelu_with_thresholds_and_with_their_logarithms(put, weights, x, same, threshold):
    z = pre(x, weights, bias=False)
    codes = z * (z > threshold)
    for stored in ({"threshold": threshold}, {"log_threshold": threshold.log()}):
        config = {"architecture": "jumprelu", "apply_b_dec_to_input": False}
        model = sae.load(files(put, {**weights, **stored}, **config))
        same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])


def test_gated(put, weights, x, same):
    w = dict(weights)
    w |= {"b_gate": w.pop("b_enc"), "b_mag": torch.randn(20) / 4, "r_mag": torch.randn(20) / 4}
    plain = (x - w["b_dec"]) @ w["W_enc"]
    codes = (plain + w["b_gate"] > 0) * (plain * w["r_mag"].exp() + w["b_mag"]).relu()
    model = sae.load(files(put, w, architecture="gated"))
    same(model, x, codes, codes @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescaled", [True, False])
def test_checkpoints_of_training_keep_their_threshold(put, weights, x, same, name, rescaled):
    config = {"k": 3.5, "matryoshka_widths": [4, 20], "rescale_acts_by_decoder_norm": rescaled}
    theta = torch.tensor(0.8, dtype=torch.double)
    norms = weights["W_dec"].norm(dim=1) if rescaled else torch.ones(20)
    z = pre(x, weights) * norms
    codes = z * (z > 0.8)
    tensors = {**weights, "topk_threshold": theta}
    model = sae.load(files(put, tensors, architecture=name, **config))
    same(model, x, codes, codes / norms @ weights["W_dec"] + weights["b_dec"])
    assert model.config()["k"] == 3.5


def test_a_scale_of_the_input_moves_the_threshold_of_rescaled_codes(put, weights, x, same):
    w, s = weights, 0.3
    config = {"architecture": "batchtopk", "k": 4, "rescale_acts_by_decoder_norm": True}
    config["normalize_activations"] = "expected_average_only_in"
    folder = files(put, {**w, "topk_threshold": torch.tensor(0.8)}, **config)
    norms = w["W_dec"].norm(dim=1)
    z = pre(x * s, w) * norms  # the threshold is on this scale
    codes = z * (z > 0.8) / s
    recon = (codes * s / norms @ w["W_dec"] + w["b_dec"]) / s
    same(sae.load(folder, given={"input_scale": s}), x, codes, recon)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("jump", [False, True])
def test_transcoders(put, weights, x, same, threshold, skip, jump):
    w = {**weights, "W_dec": weights["W_dec"][:, :4], "b_dec": weights["b_dec"][:4]}
    w |= {"W_skip": torch.randn(4, 6)} if skip else {}
    w |= {"threshold": threshold} if jump else {}
    name = f"{'jumprelu_' * jump}{'skip_' * skip}transcoder"
    model = sae.load(files(put, w, architecture=name, apply_b_dec_to_input=False, d_out=4))
    z = x @ w["W_enc"] + w["b_enc"]
    codes = z.relu() * (z > (threshold if jump else 0.0))
    recon = codes @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if skip else 0.0)
    same(model, x, codes, recon)


def test_normalized_rows(put, weights, x, same, keep):
    w = weights
    mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    norm = x.norm(dim=-1, keepdim=True) / 6**0.5
    rows = {"layer_norm": (x - mean) / (std + 1e-5), "constant_norm_rescale": x / norm}
    back = {"layer_norm": lambda y: y * std + mean, "constant_norm_rescale": lambda y: y * norm}
    for name, given in rows.items():
        model = sae.load(files(put, w, architecture="topk", k=3, normalize_activations=name))
        codes = keep(pre(given, w), 3)
        same(model, x, codes, back[name](codes @ w["W_dec"] + w["b_dec"]))


def test_a_scale_that_only_the_data_know_must_be_given(put, weights, x, same):
    name = {"normalize_activations": "expected_average_only_in"}
    folder = files(put, weights, architecture="standard", **name)
    with pytest.raises(ValueError, match=r"sqrt\(d_in\) / their mean norm, which the files lack"):
        sae.load(folder)
    codes = pre(x * 0.25, weights).relu()
    recon = (codes @ weights["W_dec"] + weights["b_dec"]) / 0.25
    same(sae.load(folder, given={"input_scale": 0.25}), x, codes, recon)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')  # of the training
    (folder / "trainer_state.pt").write_bytes(b"whatever")
    same(sae.load(folder), x, codes, recon)
    assert not torch.equal(sae.load(folder, given={"input_scale": 0.5}).W_enc, weights["W_enc"])


def test_before_version_6(put, weights, x, same, keep):
    old = {"d_in": 6, "d_sae": 20, "sae_lens_version": "3.12.1", "hook_point": "blocks.1.hook_z"}
    kwargs = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}
    config = {**old, "architecture": "standard", **kwargs, "normalize_activations": False}
    folder = put(cfg_dot_json=config, sae_weights_dot_safetensors=weights)
    codes = keep(pre(x, weights), 4)
    model = sae.load(folder)
    same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])
    assert model.k == 4
    assert model.metadata["hook_z"] is True
    (folder / "cfg.json").write_text(json.dumps(old))
    same(sae.load(folder), x, c := pre(x, weights).relu(), c @ weights["W_dec"] + weights["b_dec"])


def test_the_factor_of_finetuning_is_folded_into_the_decoder(put, weights, x, same):
    factor = torch.linspace(0.5, 2.0, 20)
    config = {"architecture": "standard", "finetuning_scaling_factor": True}
    folder = files(put, {**weights, "scaling_factor": factor}, **config)
    codes = pre(x, weights).relu()
    same(sae.load(folder), x, codes, codes * factor @ weights["W_dec"] + weights["b_dec"])
    folder = files(put, {**weights, "scaling_factor": factor}, architecture="standard")
    with pytest.raises(ValueError, match="finetuning_scaling_factor is false"):
        sae.load(folder)


REFUSED = {
    "architecture": ({"architecture": "newest"}, r"'newest' of SAELens is not one of standard"),
    "abstopk": ({"architecture": "abstopk", "k": 3}, r"keeps the k largest magnitudes with their"),
    "pursuit": ({"architecture": "matching_pursuit"}, r"by picking one latent after the other"),
    "temporal": ({"architecture": "temporal"}, r"'temporal' of SAELens predicts each token from"),
    "activation": ({"activation_fn_str": "tanh-relu"}, r"'tanh-relu' is not relu or topk"),
    "whitening": (
        {"normalize_activations": "covariance_whitening"},
        "needs statistics of the data",
    ),
    "no k": ({"architecture": "topk"}, r"must have the setting 'k'; it has none"),
    "k": ({"architecture": "topk", "k": "3"}, r"a setting 'k' of type int; got '3'"),
    "flag": ({"apply_b_dec_to_input": "no"}, r"'apply_b_dec_to_input' of type bool; got 'no'"),
    "threshold": ({"architecture": "jumprelu"}, r"it lacks threshold\."),
    "size": ({"d_in": 7}, r"d_in is 7 and 6 in the weights"),
    "bias": (
        {"architecture": "transcoder", "apply_b_dec_to_input": True},
        "a transcoder cannot sub",
    ),
    "norm": (
        {"architecture": "transcoder", "normalize_activations": "layer_norm"},
        "for a transcoder no normalization of the input is defined",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused(put, weights, case):
    config, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        sae.load(files(put, weights, **config))


def test_unknown_and_unfit_tensors_are_refused(put, weights):
    with pytest.raises(ValueError, match=r"holds W_extra, whose meaning is not known"):
        sae.load(files(put, {**weights, "W_extra": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"`W_dec` must have shape .*Was it passed transposed\?"):
        sae.load(files(put, {**weights, "W_dec": weights["W_dec"].T}))
    with pytest.raises(ValueError, match=r"must hold floating tensors; its b_enc is torch\.int64"):
        sae.load(files(put, {**weights, "b_enc": torch.ones(20, dtype=torch.int64)}))
