"""ReLU: the L1 penalty in both forms, folding of decoder norms."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data

VARIANTS = ["decoder_norm", "unit_norm"]


def make(**settings):
    return sae.ReLU(**{"n_features": 6, "n_latents": 50, "seed": 1, **settings})


@pytest.fixture
def x():
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_are_those_of_the_formula(x, variant):
    model = make(variant=variant, l1_coefficient=0.3)
    model.initialize(x)
    model, x = model.double(), x.double()
    losses = model.loss_terms(x, x)
    codes = ((x - model.b_dec) @ model.W_enc + model.b_enc).relu()
    mse = (x - codes @ model.W_dec - model.b_dec).square().sum(1).mean()
    weights = model.W_dec.norm(dim=1) if variant == "decoder_norm" else torch.ones(50)
    l1 = 0.3 * model.scale * (codes * weights).sum(1).mean()
    torch.testing.assert_close(losses.terms, {"mse": mse, "l1": l1})
    torch.testing.assert_close(losses.codes.to_dense(), codes)
    got = torch.autograd.grad(sum(losses.terms.values()), list(model.parameters()))
    for g, w in zip(got, torch.autograd.grad(mse + l1, list(model.parameters())), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_thins_the_codes_in_any_unit(variant):
    data = make_sparse_data(4000, 16, 64, k=4, noise=0.05, seed=0)[0]
    config = sae.TrainConfig(batch_size=256, n_steps=200, progress=False)

    def trained(rows, coefficient):
        model = sae.ReLU(
            n_features=16, n_latents=64, l1_coefficient=coefficient, variant=variant, seed=0
        )
        found = sae.Trainer(model, rows, config).fit().evaluation
        norms = model.W_dec.detach().norm(dim=1)
        if variant == "unit_norm":
            torch.testing.assert_close(norms, torch.ones(64))
        else:
            assert float((norms - 0.1).abs().max()) > 0.01
        return found

    weak, strong, scaled = trained(data, 0.03), trained(data, 0.3), trained(100.0 * data, 0.3)
    assert strong["l0"] < 0.8 * weak["l0"]
    assert weak["fvu"] < strong["fvu"] < 0.7
    assert scaled["l0"] == pytest.approx(strong["l0"], rel=0.05)


def test_folding_keeps_reconstructions_and_selections(x):
    """SAELens left b_dec or the bias of the encoder out of its folding at times (#354, #381)."""
    model = make()
    model.initialize(x)
    with torch.no_grad():
        model.W_dec.mul_(torch.rand(50, 1, generator=torch.Generator().manual_seed(3)) + 0.1)
        model.W_dec[7] = 0.0
    before, codes = model(x).detach(), model.encode(x)
    model.fold_decoder_norms()
    torch.testing.assert_close(model(x).detach(), before, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.encode(x).to_dense() > 0, codes.to_dense() > 0)
    norms = model.W_dec.detach().norm(dim=1)
    expected = torch.ones(50)
    expected[7] = 0.0
    torch.testing.assert_close(norms, expected)
    loss = model.loss_terms(x, x)  # a row of norm 0 gives no NaN
    grads = torch.autograd.grad(sum(loss.terms.values()), list(model.parameters()))
    assert all(bool(grad.isfinite().all()) for grad in grads)


def test_k_keeps_the_largest(x):
    model = make()
    model.initialize(x)
    codes = model.encode(x, k=1)
    assert int(codes.n_active.max()) == 1
    assert torch.equal(codes.to_dense().amax(1), model.encode(x).to_dense().amax(1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variant": "l2"}, "`variant` must be one of 'decoder_norm', 'unit_norm'; got 'l2'"),
        ({"l1_coefficient": -1.0}, "`l1_coefficient` must be a finite number"),
        ({"warmup_share": 1.1}, "`warmup_share` must be a finite number"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)
