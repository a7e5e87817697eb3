"""BilinearTopK: it starts as TopK, learns products, and does not depend on the unit of the data."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data


def data(n=512, d=12, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_it_starts_as_topk():
    x = data() + 3.0
    ours = sae.BilinearTopK(n_features=12, n_latents=48, k=4, seed=0)
    topk = sae.TopK(n_features=12, n_latents=48, k=4, seed=0)
    for model in (ours, topk):
        model.initialize(x)
    torch.testing.assert_close(ours(x), topk(x), rtol=1e-4, atol=1e-4)


def test_codes_are_products():
    model = sae.BilinearTopK(n_features=12, n_latents=48, k=48, seed=0)
    torch.nn.init.normal_(model.right)
    x = data(8)
    want = (x @ model.left.T) * (x @ model.right.T + 1.0)
    torch.testing.assert_close(model.encode(x).to_dense(), want.relu(), rtol=1e-4, atol=1e-4)


def test_every_weight_of_a_dead_latent_learns_from_the_residual_alone():
    model = sae.BilinearTopK(n_features=12, n_latents=48, k=4, seed=0)
    x = data(64)
    model.initialize(x)
    dead = torch.zeros(48, dtype=torch.bool)
    dead[40:] = True
    model.loss_terms(x, x, dead_latents=dead).terms["auxk"].backward()
    for weight in (model.left, model.right, model.left_bias, model.right_bias, model.W_dec):
        assert bool((weight.grad[40:] != 0).any())
        assert bool((weight.grad[:40] == 0).all())
    assert model.b_dec.grad is None or not bool(model.b_dec.grad.any())


def test_without_dead_latents_the_auxiliary_loss_is_zero():
    model = sae.BilinearTopK(n_features=12, n_latents=48, k=4, seed=0)
    nobody = torch.zeros(48, dtype=torch.bool)
    assert float(model.loss_terms(data(4), data(4), dead_latents=nobody).terms["auxk"]) == 0


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_training_does_not_depend_on_the_unit_of_the_data(factor):
    x, _, _ = make_sparse_data(2000, 12, 30, k=3, noise=0.01, seed=0)
    config = sae.TrainConfig(batch_size=256, n_steps=60)
    fvu = []
    for unit in (1.0, factor):
        model = sae.BilinearTopK(n_features=12, n_latents=48, k=3, seed=0)
        fvu.append(sae.Trainer(model, x * unit, config).fit().evaluation["fvu"])
    assert fvu[1] == pytest.approx(fvu[0], rel=0.02)


def test_the_sparse_lists_of_the_optimizer_give_what_dense_gradients_give():
    x, _, _ = make_sparse_data(2000, 12, 30, k=3, noise=0.01, seed=0)
    weights = []
    for optimizer in ("row_adam", "adam"):
        model = sae.BilinearTopK(n_features=12, n_latents=48, k=3, seed=0)
        config = sae.TrainConfig(batch_size=256, n_steps=20, optimizer=optimizer)
        sae.Trainer(model, x, config).fit()
        weights.append(model.state_dict())
    for name, mine in weights[0].items():
        torch.testing.assert_close(mine, weights[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_products_explain_conjunctions_that_topk_cannot():
    """A direction appears where two others agree in sign and only there."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(6000, 8, generator=generator)
    both = (signs[:, 0::2] * signs[:, 1::2]).relu()
    x = torch.cat([signs, 3.0 * both], dim=1)
    fvu = {}
    for kind in (sae.TopK, sae.BilinearTopK):
        model = kind(n_features=12, n_latents=32, k=6, seed=0)
        config = sae.TrainConfig(batch_size=512, n_steps=300, seed=0)
        fvu[kind] = sae.Trainer(model, x, config).fit().evaluation["fvu"]
    assert fvu[sae.BilinearTopK] < fvu[sae.TopK]
