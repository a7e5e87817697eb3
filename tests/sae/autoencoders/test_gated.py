"""Gated: the three terms of the paper, and the JumpReLU that it is."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data


def make(**settings):
    return sae.Gated(**{"n_features": 6, "n_latents": 50, "seed": 1, **settings})


@pytest.fixture
def x():
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(x):
    """With nothing zero, so that every parameter has a part."""
    model = make(l1_coefficient=0.3)
    model.initialize(x)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in ("r_mag", "b_mag", "b_enc"):
            getattr(model, name).add_(0.2 * torch.randn(50, generator=generator))
    return model


@pytest.mark.parametrize("term", ["mse", "l1", "aux"])
def test_every_term_has_the_gradient_of_the_formula(model, x, term):
    """SAELens lets the auxiliary term reach the decoder; the paper stops it there."""
    model, x = model.double(), x.double()
    losses = model.loss_terms(x, x)
    plain = (x - model.b_dec) @ model.W_enc
    pi = plain + model.b_enc
    mag = plain * model.r_mag.exp() + model.b_mag
    codes = (pi > 0) * mag.relu()
    want = {
        "mse": (x - codes @ model.W_dec - model.b_dec).square().sum(1).mean(),
        "l1": 0.3 * model.scale * pi.relu().sum(1).mean(),
        "aux": (x - pi.relu() @ model.W_dec.detach() - model.b_dec.detach()).square().sum(1).mean(),
    }[term]
    torch.testing.assert_close(losses.terms[term], want)
    torch.testing.assert_close(losses.codes.to_dense(), codes)
    parameters = list(model.parameters())
    got = torch.autograd.grad(losses.terms[term], parameters, allow_unused=True)
    expected = torch.autograd.grad(want, parameters, allow_unused=True)
    for parameter, *parts in zip(parameters, got, expected, strict=True):
        zero = torch.zeros_like(parameter)
        first, second = (zero if part is None else part for part in parts)
        torch.testing.assert_close(first, second)


def test_the_auxiliary_term_leaves_the_decoder_alone(model, x):
    aux = model.loss_terms(x, x).terms["aux"]
    grads = torch.autograd.grad(aux, [model.W_dec, model.r_mag, model.b_mag], allow_unused=True)
    assert grads == (None, None, None)


@pytest.mark.parametrize("pre_bias", [True, False])
def test_it_is_a_jumprelu(x, pre_bias):
    model = make(pre_bias=pre_bias)
    model.initialize(x)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in ("r_mag", "b_mag", "b_enc"):
            getattr(model, name).add_(0.5 * torch.randn(50, generator=generator))
    model = model.double()
    jump = model.to_jumprelu()
    ours, theirs = model.encode(x.double()), jump.encode(x.double())
    assert ours.n_active.sum() > 20
    torch.testing.assert_close(ours.to_dense(), theirs.to_dense())
    torch.testing.assert_close(model(x.double()), jump(x.double()))


def test_a_stronger_penalty_is_sparser_and_the_unit_of_the_data_does_not_matter():
    data = make_sparse_data(4000, 16, 64, k=4, noise=0.05, seed=0)[0]
    config = sae.TrainConfig(batch_size=256, n_steps=200, progress=False)

    def trained(rows, coefficient):
        model = sae.Gated(n_features=16, n_latents=64, l1_coefficient=coefficient, seed=0)
        return sae.Trainer(model, rows, config).fit().evaluation

    weak, strong, scaled = trained(data, 0.05), trained(data, 0.3), trained(100.0 * data, 0.3)
    assert strong["l0"] < 0.8 * weak["l0"]
    assert weak["fvu"] < strong["fvu"] < 0.6
    assert scaled["l0"] == pytest.approx(strong["l0"], rel=0.05)
    assert scaled["fvu"] == pytest.approx(strong["fvu"], rel=0.05)


@pytest.mark.parametrize("name", ["l1_coefficient", "warmup_share"])
def test_bad_settings_get_one_sentence(name):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number"):
        make(**{name: -0.1})
