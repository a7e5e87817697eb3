"""MultiTopK: two errors, each with its gradient, and the code of the smaller k."""

import pytest
import torch

import sae


def make(**settings):
    return sae.MultiTopK(**{"n_features": 6, "n_latents": 50, "k": 3, "seed": 1, **settings})


@pytest.fixture
def x():
    return torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("term", ["mse", "multi"])
@pytest.mark.parametrize("k", [3, 20, 50])
def test_every_term_has_the_gradient_of_the_formula(x, k, term):
    """sparsify's fused encoder drops the gradient of the larger code."""
    model = make(k=k, multiple_weight=0.25)
    model.initialize(x)
    losses = model.loss_terms(x, x)
    got = torch.autograd.grad(losses.terms[term], list(model.parameters()))
    model = model.double()
    z = ((x.double() - model.b_dec) @ model.W_enc + model.b_enc).relu()
    top = z.topk(k if term == "mse" else min(50, 4 * k))
    recon = torch.zeros_like(z).scatter(1, top.indices, top.values) @ model.W_dec + model.b_dec
    loss = (x - recon).square().sum(1).mean() * (1.0 if term == "mse" else 0.25)
    torch.testing.assert_close(losses.terms[term].double(), loss, rtol=1e-5, atol=1e-6)
    assert losses.terms[term] > 0
    for g, w in zip(got, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-6)


def test_code_reconstruction_and_auxk_are_those_of_topk(x):
    """sparsify returns the larger code, and counts what fires there (Multi-TopK)."""
    topk = sae.TopK(n_features=6, n_latents=50, k=3, seed=1)
    model = make()
    dead = torch.arange(50) % 4 == 0
    for each in (model, topk):
        each.initialize(x)
    ours, theirs = (each.loss_terms(x, x, dead_latents=dead) for each in (model, topk))
    assert ours.codes == theirs.codes
    assert model.encode(x) == topk.encode(x)
    torch.testing.assert_close(ours.reconstruction, theirs.reconstruction)
    for name in ("mse", "auxk"):
        torch.testing.assert_close(ours.terms[name], theirs.terms[name])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"multiple": 1}, "`multiple` must be an int"),
        ({"multiple_weight": -0.1}, "`multiple_weight` must be a finite number"),
        ({"k": 51}, r"`k` must be an int in \[1, n_latents\]; got 51"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)
