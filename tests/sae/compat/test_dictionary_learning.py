"""dictionary_learning: the class says what is subtracted and selected; old k and new k agree."""

import pytest
import torch

import sae


def files(put, kind, state, **trainer):
    return put(config_dot_json={"trainer": {"dict_class": kind, **trainer}}, ae_dot_pt=state)


def linear(w, **others):
    return {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
        **others,
    }


def pre(x, w, *, bias=True):
    return (x - w["b_dec"] * bias) @ w["W_enc"] + w["b_enc"]


def test_autoencoder_and_the_new_one_without_the_bias(put, weights, x, same):
    cases = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}
    for kind, name in cases.items():
        state = linear(weights, **{name: weights["b_dec"]})
        codes = pre(x, weights, bias=kind == "AutoEncoder").relu()
        model = sae.load(files(put, kind, state, lm_name="gpt2", layer=3))
        same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])
        assert model.metadata["base_model"] == "gpt2"


def test_the_decoder_of_an_autoencoder_as_the_library_loads_it(put, weights, x, same):
    folder = files(put, "AutoEncoder", linear(weights, bias=weights["b_dec"]))
    model = sae.load(folder, given={"normalize_decoder": True})
    norms = weights["W_dec"].norm(dim=1)
    codes = pre(x, weights).relu() * norms
    same(model, x, codes, codes / norms @ weights["W_dec"] + weights["b_dec"])
    torch.testing.assert_close(model.W_dec.norm(dim=1), torch.ones(20))
    assert model.metadata["normalize_decoder"] is True
    as_it_is = sae.load(folder, given={"normalize_decoder": False})
    assert torch.equal(as_it_is.W_dec, weights["W_dec"])
    with pytest.raises(ValueError, match="a scale is folded into them"):
        sae.LazyAutoencoder(folder, given={"normalize_decoder": True})
    with pytest.raises(TypeError, match=r"`given\['normalize_decoder'\]` must be True or False"):
        sae.load(folder, given={"normalize_decoder": 1})
    new = files(put, "AutoEncoderNew", linear(weights, **{"decoder.bias": weights["b_dec"]}))
    with pytest.raises(ValueError, match="load_dictionary normalizes the decoder of no AutoEncod"):
        sae.load(new, given={"normalize_decoder": True})


ODD = {
    "repeated": (lambda w: w["W_enc"][:1, :1].expand(3000, 2000), r"of shape \(3000, 2000\) has 4"),
    "nowhere": (lambda w: w["W_enc"].to("meta"), r"dense tensors with values; .* device meta"),
    "sparse": (lambda w: w["W_enc"].T.to_sparse(), r"dense tensors with values; .*sparse_coo"),
    "three axes": (lambda w: w["W_enc"][None], r"matrices and vectors; its encoder\.weight has"),
    "number": (lambda w: torch.tensor(1.0), r"`W_enc` must have shape"),
}


@pytest.mark.parametrize("case", ODD)
def test_tensors_that_are_no_matrices_are_refused(put, weights, case):
    made, sentence = ODD[case]
    state = {**linear(weights, b_dec=weights["b_dec"]), "encoder.weight": made(weights)}
    with pytest.raises(ValueError, match=sentence):
        sae.load(files(put, "AutoEncoderTopK", state, k=3))
    state = linear(weights, b_dec=torch.tensor(1.0))
    with pytest.raises(ValueError, match="`b_dec` must have shape"):
        sae.load(files(put, "AutoEncoderTopK", state, k=3))


@pytest.mark.parametrize("k", [torch.tensor(4.5), torch.ones(3), "3", True])
def test_a_k_that_is_no_whole_number_is_refused(put, weights, k):
    state = linear(weights, b_dec=weights["b_dec"], k=k)
    with pytest.raises(ValueError, match=r"`ae\.pt` must have a whole number as 'k'; got"):
        sae.load(files(put, "AutoEncoderTopK", state))


def test_topk_with_and_without_what_newer_versions_store(put, weights, x, same, keep):
    codes = keep(pre(x, weights), 3)
    new = {"k": torch.tensor(3, dtype=torch.int), "threshold": torch.tensor(0.7)}
    for others in ({}, new):
        state = linear(weights, b_dec=weights["b_dec"], **others)
        model = sae.load(files(put, "AutoEncoderTopK", state, k=3))
        same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])
    with pytest.raises(ValueError, match=r"its k is 4, and 3 in ae\.pt"):
        sae.load(files(put, "AutoEncoderTopK", state, k=4))
    assert sae.load(files(put, "AutoEncoderTopK", state)).k == 3
    state.pop("k")
    with pytest.raises(ValueError, match=r"must have the setting 'k'; it has none"):
        sae.load(files(put, "AutoEncoderTopK", state))


@pytest.mark.parametrize("theta", [0.7, -1.0])
def test_batch_topk_and_matryoshka(put, weights, x, same, theta):
    z = pre(x, weights)
    codes = z.relu() * (z.relu() > theta)
    others = {"k": torch.tensor(3), "threshold": torch.tensor(theta)}
    state = linear(weights, b_dec=weights["b_dec"], **others)
    model = sae.load(files(put, "BatchTopKSAE", state, k=3))
    same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])
    state = {**weights, **others, "group_sizes": torch.tensor([4, 6, 10])}
    model = sae.load(files(put, "MatryoshkaBatchTopKSAE", state, k=3))
    same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])
    assert model.prefixes == [4, 10, 20]


def test_jumprelu_does_not_subtract_its_bias(put, weights, x, same, threshold):
    z = pre(x, weights, bias=False)
    codes = (z * (z > threshold)).relu()
    model = sae.load(files(put, "JumpReluAutoEncoder", {**weights, "threshold": threshold}))
    same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])


def test_gated(put, weights, x, same):
    gate, mag, r = (0.3 * torch.randn(20) for _ in range(3))
    state = linear(weights, decoder_bias=weights["b_dec"], gate_bias=gate, mag_bias=mag, r_mag=r)
    state.pop("encoder.bias")
    plain = (x - weights["b_dec"]) @ weights["W_enc"]
    codes = (plain + gate > 0) * (r.exp() * plain + mag).relu()
    model = sae.load(files(put, "GatedAutoEncoder", state))
    same(model, x, codes, codes @ weights["W_dec"] + weights["b_dec"])


def test_what_is_not_known_is_refused(put, weights, tmp_path):
    state = linear(weights, bias=weights["b_dec"])
    with pytest.raises(ValueError, match=r"'AutoEncoderTop' of dictionaries is not one of .* mean"):
        sae.load(files(put, "AutoEncoderTop", state))
    with pytest.raises(ValueError, match=r"lacks decoder\.bias and holds bias, whose meaning"):
        sae.load(files(put, "AutoEncoderNew", state))
    with pytest.raises(ValueError, match=r"'trainer' of type dict; got 'x'"):
        sae.load(put(config_dot_json={"trainer": "x"}))
    groups = {"k": torch.tensor(3), "threshold": torch.tensor(0.1), "group_sizes": torch.ones(2)}
    with pytest.raises(ValueError, match="its group_sizes are not a row of whole numbers"):
        sae.load(files(put, "MatryoshkaBatchTopKSAE", {**weights, **groups}, k=3))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"in a config\.json beside it, which is missing"):
        sae.load(tmp_path)
