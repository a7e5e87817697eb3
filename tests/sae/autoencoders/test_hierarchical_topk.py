"""HierarchicalTopK: the loss over budgets, its gradients, any k at inference."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data
from sparsecode.metrics import fvu
from sparsecode.ops.hierarchical import cpu as hierarchical_cpu


def explicit_loss(model, x, budgets, weights):
    """The published loss, written densely in float64."""
    z = ((x - model.b_dec) @ model.W_enc + model.b_enc).relu()
    total = 0.0
    for budget, weight in zip(budgets, weights, strict=True):
        top = z.topk(budget)
        recon = torch.zeros_like(z).scatter(1, top.indices, top.values) @ model.W_dec + model.b_dec
        total = total + weight * (x - recon).square().sum(1).mean()
    return total


def make(**settings):
    return sae.HierarchicalTopK(**{"n_features": 6, "n_latents": 50, "k": 5, "seed": 1, **settings})


@pytest.fixture
def x():
    return torch.randn(23, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("entries", [1 << 26, 6 * 5 * 4], ids=["at_once", "in_parts"])
@pytest.mark.parametrize(
    ("budgets", "weights"), [(None, None), ([5, 1, 3], None), ([2, 4], [0.25, 2.0])], ids=str
)
def test_loss_and_gradients_are_those_of_the_formula(x, budgets, weights, entries, monkeypatch):
    monkeypatch.setattr(hierarchical_cpu, "HELD", entries)
    model = make(budgets=budgets, weights=weights)
    model.initialize(x)
    losses = model.loss_terms(x, x)
    got = torch.autograd.grad(losses.terms["mse"], list(model.parameters()))
    model = model.double()
    budgets = budgets or [1, 2, 3, 4, 5]
    weights = weights or [1 / len(budgets)] * len(budgets)
    loss = explicit_loss(model, x.double(), budgets, weights)
    want = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(losses.terms["mse"].double(), loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        losses.reconstruction.double(),
        model.decode(model.encode(x.double(), k=max(budgets))),
        rtol=1e-4,
        atol=1e-5,
    )
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.double(), w, rtol=1e-4, atol=1e-6)


def test_one_budget_of_k_is_topk(x):
    ours = make(budgets=[5], k_aux=4)
    topk = sae.TopK(n_features=6, n_latents=50, k=5, k_aux=4, seed=1)
    dead = torch.arange(50) % 3 == 0
    first, second = (model.loss_terms(x, x, dead_latents=dead) for model in (ours, topk))
    assert first.codes == second.codes
    for name in ("mse", "auxk"):
        torch.testing.assert_close(first.terms[name], second.terms[name])
    for mine, theirs in zip(
        torch.autograd.grad(sum(first.terms.values()), list(ours.parameters())),
        torch.autograd.grad(sum(second.terms.values()), list(topk.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_sizes_that_the_published_kernel_refuses():
    """flexsae asserts k a power of two, D a multiple of 64 and rows a multiple of 16, on CUDA."""
    model = sae.HierarchicalTopK(n_features=7, n_latents=13, k=11, seed=0)
    x = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    losses = model.loss_terms(x, x)
    want = explicit_loss(model, x, range(1, 12), [1 / 11] * 11)
    torch.testing.assert_close(losses.terms["mse"], want)


def test_a_budget_is_a_prefix_of_the_code(x):
    model = make()
    for k in (1, 3, 5, 9):
        assert model.encode(x, k=9).truncate(k) == model.encode(x, k=k)


def test_trained_for_all_budgets_it_beats_topk_at_few_and_evaluation_shows_the_curve():
    data = make_sparse_data(4000, 16, 48, k=8, noise=0.05, seed=0)[0]
    config = sae.TrainConfig(batch_size=256, n_steps=250, progress=False)
    curves = {}
    for kind in (sae.HierarchicalTopK, sae.TopK):
        model = kind(n_features=16, n_latents=64, k=8, seed=0)
        sae.Trainer(model, data, config).fit()
        curves[kind] = sae.evaluate(model, data, budgets=[8, 1, 2])["fvu_at_k"]
    assert list(curves[sae.TopK]) == ["1", "2", "8"]
    ours, theirs = curves[sae.HierarchicalTopK], curves[sae.TopK]
    assert ours["8"] < ours["2"] < ours["1"]
    assert ours["1"] < 0.95 * theirs["1"]
    assert ours["2"] < 0.95 * theirs["2"]


def test_evaluation_follows_the_definition_at_each_budget(x):
    model = make()
    found = sae.evaluate(model, x)
    assert list(found["fvu_at_k"]) == ["1", "2", "4", "5"]
    for k, value in found["fvu_at_k"].items():
        codes = model.encode(x, k=int(k))
        assert value == pytest.approx(fvu(x, model.decode(codes).detach()), rel=1e-6)
    assert found["fvu_at_k"]["5"] == pytest.approx(found["fvu"])


def test_a_schedule_of_k_moves_the_budgets():
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    model = make(k=2)
    result = sae.Trainer(
        model,
        x,
        sae.TrainConfig(batch_size=50, n_steps=8, k_start=10, log_every=1, progress=False),
    ).fit()
    kept = [row["k"] for row in result.history if row["split"] == "train"]
    assert kept[0] == 10
    assert kept[-1] == 2 == model.k


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budgets": [6]}, r"`budgets` must be an int in \[1, k\]; got 6 with k=5"),
        ({"budgets": [2, 2]}, r"`budgets` must be one or more different numbers .* got \[2, 2\]"),
        ({"budgets": []}, "`budgets` must be one or more different numbers"),
        ({"weights": [1.0]}, r"`weights` must .* \(none without `budgets`\); got 1"),
        ({"budgets": [1, 2], "weights": [1.0]}, r"`budgets` \(2\); got 1"),
        ({"budgets": [1], "weights": [-1.0]}, "`weights` must be a finite number in"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)
