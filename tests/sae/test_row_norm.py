"""Rows normalized by their own statistics: their codes, and reconstructions as rows came."""

import pytest
import torch

import sae
from sae.row_norm import decoder_factor

MADE = {
    "topk": lambda norm: sae.TopK(n_features=6, n_latents=20, k=3, row_norm=norm, seed=0),
    "relu": lambda norm: sae.ReLU(n_features=6, n_latents=20, row_norm=norm, seed=0),
}


@pytest.fixture
def x() -> torch.Tensor:
    return 3.0 * torch.randn(9, 6, generator=torch.Generator().manual_seed(0)) + 2.0


def normalized(x, norm):
    if norm == "unit_norm":
        scale = x.norm(dim=-1, keepdim=True) / 6**0.5
        return x / scale, torch.zeros_like(scale), scale
    mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
    return (x - mean) / (deviation + 1e-5), mean, deviation


@pytest.mark.parametrize("norm", ["layer_norm", "unit_norm"])
@pytest.mark.parametrize("name", MADE)
def test_codes_loss_and_reconstruction(name, norm, x):
    model, plain = MADE[name](norm), MADE[name]("none")
    rows, mean, scale = normalized(x, norm)
    torch.testing.assert_close(model.encode(x).to_dense(), plain.encode(rows).to_dense())
    torch.testing.assert_close(model(x), plain(rows) * scale + mean)
    losses, want = model.loss_terms(x, x), plain.loss_terms(rows, rows)
    torch.testing.assert_close(losses.terms["mse"], want.terms["mse"])
    torch.testing.assert_close(losses.reconstruction, model(x).detach())


def test_a_target_is_normalized_with_its_input(x):
    model = MADE["topk"]("layer_norm")
    rows, mean, deviation = normalized(x, "layer_norm")
    target, scale = x + 1.0, deviation + 1e-5
    want = MADE["topk"]("none").loss_terms(rows, (target - mean) / scale).terms["mse"]
    torch.testing.assert_close(model.loss_terms(x, target).terms["mse"], want)


def test_decoding_does_not_remember_the_last_rows(x):
    model = MADE["topk"]("layer_norm")
    codes, want = model.encode(x), model(x)
    model.encode(100 * x)
    torch.testing.assert_close(model.reconstruct(x, codes), want)


def test_rows_of_zeros_stay_finite():
    for norm in ("layer_norm", "unit_norm"):
        assert torch.isfinite(MADE["topk"](norm)(torch.zeros(2, 6))).all()


def test_wrong_settings_get_one_sentence():
    with pytest.raises(ValueError, match=r"`row_norm` must be one of 'none', 'layer_norm'"):
        sae.TopK(n_features=6, n_latents=20, k=3, row_norm="batch")
    with pytest.raises(ValueError, match=r"must have rows of at least 2 features .* n_features=1"):
        sae.TopK(n_features=1, n_latents=20, k=3, row_norm="layer_norm")
    with pytest.raises(TypeError, match=r"TopK cannot be folded: each row has a scale of its own"):
        sae.fold_input_scale(MADE["topk"]("unit_norm"), 0.5)


def test_biases_learn_in_units_of_the_normalized_rows():
    groups = MADE["topk"]("layer_norm").parameter_groups(activation_scale=50.0)
    assert {group["lr_scale"] for group in groups} == {1.0}


def test_groupmax_keeps_the_largest_of_each_group(x):
    model = sae.TopK(n_features=6, n_latents=20, k=4, activation="groupmax", seed=0)
    pre = ((x - model.b_dec) @ model.W_enc + model.b_enc).relu().detach()
    best = pre.reshape(9, 4, 5)
    want = torch.where(best == best.amax(-1, keepdim=True), best, 0.0).reshape(9, 20)
    torch.testing.assert_close(model.encode(x).to_dense(), want)


def test_a_transcoder_with_thresholds(x):
    model = sae.Transcoder(n_features=6, n_latents=20, k=2, activation="jumprelu", seed=0)
    model.threshold.fill_(0.8)
    pre = (x @ model.W_enc + model.b_enc).detach()
    torch.testing.assert_close(model.encode(x).to_dense(), torch.where(pre > 0.8, pre, 0.0))
    assert bool((model.encode(x, k=2).n_active <= 2).all())
    with pytest.raises(ValueError, match=r"`activation` must be one of 'topk', 'groupmax', 'jump"):
        sae.Transcoder(n_features=6, n_latents=20, k=2, activation="gelu")


@pytest.mark.parametrize("norm", ["none", "layer_norm", "unit_norm"])
def test_a_latent_more_moves_the_reconstruction_by_its_row_times_the_factor(norm, x):
    model = MADE["topk"](norm)
    codes = model.encode(x)
    more = codes.with_values(codes.values + 1.0)
    moved = model.reconstruct(x, more) - model.reconstruct(x, codes)
    added = model.W_dec[codes.indices].sum(1) * decoder_factor(x, norm)
    torch.testing.assert_close(moved, added)


@pytest.mark.parametrize("norm", ["none", "layer_norm", "unit_norm"])
def test_codes_alone_give_normalized_rows_and_a_warning(norm, x):
    model = MADE["topk"](norm)
    codes = model.encode(x)
    if norm == "none":
        torch.testing.assert_close(model.decode(codes), model(x))
        return
    with pytest.warns(UserWarning, match=r"`decode` gives rows as the model normalizes them"):
        rows = model.decode(codes)
    _, shift, factor = normalized(x, norm)
    torch.testing.assert_close(rows * factor + shift, model(x))
