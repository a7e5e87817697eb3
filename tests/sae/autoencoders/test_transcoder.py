"""Transcoder: input at one place, target at another, and what makes it one."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data

pytestmark = pytest.mark.usefixtures("one_thread")


def pairs(n_rows=600, scale=1.0) -> torch.Tensor:
    """Sparse inputs of 12 features beside 6 targets that are a linear map of their codes."""
    x, _, truth = make_sparse_data(n_rows, 12, 24, 2, noise=0.01, seed=0)
    mapped = truth.to_dense() @ torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    return torch.cat([x, scale * mapped + 3.0 * scale], 1)


def made(**settings) -> sae.Transcoder:
    sizes = {"n_features": 12, "n_targets": 6, "n_latents": 48, "k": 3, "seed": 0}
    return sae.Transcoder(**{**sizes, **settings})


def trained(rows, model=None, **settings) -> sae.TrainResult:
    config = {"batch_size": 64, "n_steps": 300, "lr": 5e-3, "progress": False}
    return sae.Trainer(model or made(), rows, sae.TrainConfig(**{**config, **settings})).fit()


def test_the_start_predicts_the_mean_and_centers_the_codes():
    model, rows = made(skip_connection=True), pairs()
    model.initialize(rows)
    x, target = model.input_and_target(rows)
    torch.testing.assert_close(model(x), target.mean(0).expand_as(target), rtol=1e-5, atol=1e-5)
    z = x @ model.W_enc + model.b_enc
    torch.testing.assert_close(z.mean(0), torch.zeros(48), rtol=0, atol=1e-5)


def test_loss_and_gradients_are_those_of_the_definition():
    rows = pairs(20).double()
    model = made(skip_connection=True, aux_coefficient=0.0).double()
    model.initialize(rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape).double())
    x, target = model.input_and_target(rows)
    found = model.loss_terms(x, target)
    found.terms["mse"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    z = torch.relu(x @ model.W_enc + model.b_enc)
    kept, ids = z.topk(3, dim=1)
    dense = torch.zeros_like(z).scatter(1, ids, kept)
    recon = dense @ model.W_dec + model.b_dec + x @ model.W_skip.t()
    (recon - target).square().sum(1).mean().backward()
    torch.testing.assert_close(found.reconstruction, recon.detach())
    torch.testing.assert_close(model(x), recon)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_it_learns_the_map_and_evaluates_against_the_target(tmp_path):
    rows = pairs(1500)
    result = trained(rows, out_dir=tmp_path)
    assert result.evaluation["fvu"] < 0.25
    model, (x, target) = result.model, result.model.input_and_target(rows)
    error = (model(x).detach() - target).square().sum() / (target - target.mean(0)).square().sum()
    assert sae.evaluate(model, rows)["fvu"] == pytest.approx(float(error), rel=1e-4)
    loaded = sae.load(tmp_path)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("normalize", ["none", "mean_square", "per_feature"])
def test_the_result_does_not_depend_on_the_unit_of_the_target(normalize):
    small, large = (
        trained(pairs(), normalize=normalize),
        trained(pairs(scale=1e3), normalize=normalize),
    )
    assert large.evaluation["fvu"] == pytest.approx(small.evaluation["fvu"], rel=0.05)


def test_the_skip_connection_takes_what_is_linear():
    x = torch.randn(800, 12)
    rows = torch.cat([x, x @ torch.randn(12, 6)], 1)
    plain = trained(rows).evaluation["fvu"]
    assert trained(rows, made(skip_connection=True)).evaluation["fvu"] < 0.5 * plain


def test_dead_latents_are_given_the_residual():
    model, rows = made(), pairs(50)
    model.initialize(rows)
    x, target = model.input_and_target(rows)
    dead = torch.ones(48, dtype=torch.bool)
    found = model.loss_terms(x, target, dead_latents=dead)
    # the decoder is zero still: all of the centered target is left over
    terms = {name: float(term.detach()) for name, term in found.terms.items()}
    assert terms["auxk"] * 32 == pytest.approx(terms["mse"], rel=1e-4)


def test_rows_must_hold_input_and_target():
    with pytest.raises(
        ValueError, match=r"`data` must have shape .* = \(any, 18\); got \(45, 12\)"
    ):
        sae.Trainer(made(), torch.randn(50, 12))
    with pytest.raises(ValueError, match="`sample` must have"):
        made().initialize(torch.randn(5, 12))
    with pytest.raises(ValueError, match="`target` must have"):
        made().loss_terms(torch.randn(5, 12), torch.randn(5, 12))
