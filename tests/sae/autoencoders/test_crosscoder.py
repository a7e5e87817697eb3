"""Crosscoder: one code for several hookpoints."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data

pytestmark = pytest.mark.usefixtures("one_thread")


def rows(n_rows=800, scale=1.0) -> torch.Tensor:
    """Two hookpoints of 10 and 6 features that share a sparse code, one of another size."""
    x, _, truth = make_sparse_data(n_rows, 10, 24, 2, noise=0.01, seed=0)
    other = truth.to_dense() @ torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
    return torch.cat([x, scale * other], 1)


def made(**settings) -> sae.Crosscoder:
    sizes = {"n_features": 16, "widths": [10, 6], "n_latents": 48, "k": 3, "seed": 0}
    return sae.Crosscoder(**{**sizes, **settings})


def trained(data, model=None, **settings) -> sae.TrainResult:
    config = {"batch_size": 64, "n_steps": 300, "lr": 5e-3, "progress": False}
    return sae.Trainer(model or made(), data, sae.TrainConfig(**{**config, **settings})).fit()


@pytest.mark.parametrize("selection", ["topk", "batch_topk"])
def test_loss_and_gradients_are_those_of_the_definition(selection):
    x = rows(20).double()
    model = made(selection=selection, aux_coefficient=0.0).double().train()
    model.initialize(x)
    with torch.no_grad():
        model.W_dec.mul_(torch.rand(48, 1) + 0.5)
        model.W_dec[:, :10].mul_(torch.rand(48, 1) + 0.1)
    found = model.loss_terms(x, x)
    sum(found.terms.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    # sum over hookpoints of x_l W_enc^l, ranked by the sum of the decoder norms at each
    z = torch.relu(x[:, :10] @ model.W_enc[:10] + x[:, 10:] @ model.W_enc[10:] + model.b_enc)
    norms = model.W_dec[:, :10].norm(dim=1) + model.W_dec[:, 10:].norm(dim=1)
    ranked = (z * norms).detach()
    if selection == "topk":
        keep = torch.zeros_like(z).scatter(1, ranked.topk(3, dim=1).indices, 1.0)
    else:
        flat = ranked.flatten()
        keep = torch.zeros_like(flat).scatter(0, flat.topk(60).indices, 1.0).view_as(z)
    recon = (z * keep) @ model.W_dec + model.b_dec
    error = (recon - x).square()
    (error[:, :10].sum(1).mean() + error[:, 10:].sum(1).mean()).backward()
    torch.testing.assert_close(found.reconstruction, recon.detach())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_one_hookpoint_is_batch_topk():
    x = rows()[:, :10]
    cross = sae.Crosscoder(n_features=10, n_latents=48, k=3, seed=0)
    plain = sae.BatchTopK(n_features=10, n_latents=48, k=3, seed=0)
    found, want = trained(x, cross).evaluation, trained(x, plain).evaluation
    assert found["fvu"] == pytest.approx(want["fvu"], rel=0.1)
    assert found["l0"] == pytest.approx(want["l0"], rel=0.15)


def test_the_threshold_holds_k_on_rows_it_has_not_seen():
    result = trained(rows(2000), normalize="mean_square")
    assert result.evaluation["l0"] == pytest.approx(3, rel=0.1)
    assert result.evaluation["fvu"] < 0.3
    whole, model = rows(), result.model
    alone = torch.cat([model.encode(row[None]).to_dense() for row in whole[:40]])
    torch.testing.assert_close(alone, model.encode(whole[:40]).to_dense())


def test_each_hookpoint_is_heard_on_a_common_scale():
    data = rows(scale=1e-3)
    deaf, fair = trained(data), trained(data, normalize="mean_square")
    errors = fair.evaluation["fvu_at_hookpoint"]
    assert deaf.evaluation["fvu_at_hookpoint"][1] > 2 * errors[1]
    shares = fair.evaluation["decoder_share_at_hookpoint"]
    assert sum(shares) == pytest.approx(1.0)
    assert 0.3 < shares[0] < 0.7
    x, model = data, fair.model
    parts = [(x[:, :10], model(x)[:, :10]), (x[:, 10:], model(x)[:, 10:])]
    for error, (target, found) in zip(
        sae.evaluate(model, x)["fvu_at_hookpoint"], parts, strict=True
    ):
        want = (found.detach() - target).square().sum() / (target - target.mean(0)).square().sum()
        assert error == pytest.approx(float(want), rel=1e-4)


def test_norms_show_a_latent_that_belongs_to_one_hookpoint():
    model = made()
    with torch.no_grad():
        model.W_dec[5, 10:] = 0.0
        model.feature_scale[:10] = 4.0
    norms = model.decoder_norms()
    assert norms.shape == (2, 48)
    torch.testing.assert_close(norms[0, 5], 4 * model.W_dec[5, :10].norm())
    assert norms[1, 5] == 0


def test_folding_keeps_selection_reconstruction_and_norms_to_unit_sum():
    result = trained(rows(scale=50.0), normalize="mean_square")
    model, x = result.model, rows(scale=50.0)
    assert not torch.allclose(model.feature_scale, torch.ones(16))
    folded = sae.fold_decoder_norms(model)
    torch.testing.assert_close(folded.decoder_norms().sum(0), torch.ones(48))
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-3)
    assert torch.equal(folded.encode(x).to_dense() != 0, model.encode(x).to_dense() != 0)


@pytest.mark.parametrize("widths", [[10, 5], [16, 0], [], [17, -1]])
def test_widths_must_make_up_a_row(widths):
    with pytest.raises(ValueError, match="`widths` must be positive and sum to n_features = 16"):
        made(widths=widths)
