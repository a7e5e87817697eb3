import itertools

import pytest
import torch
from torch import nn

from sparsecode.robustness import layers_of
from sparsecode.robustness.lipschitz import margin_slopes, operator_norm

INF = float("inf")


@pytest.mark.parametrize(("order", "norm"), [(1.0, INF), (2.0, 2.0), (INF, 1.0)])
def test_operator_norms_are_those_of_torch(order: float, norm: float) -> None:
    weight = torch.randn(4, 7, dtype=torch.float64)
    expected = float(torch.linalg.matrix_norm(weight, norm))
    assert operator_norm(weight, order) == pytest.approx(expected)
    x = torch.randn(7, 5000, dtype=torch.float64)
    ratios = (weight @ x).norm(norm, dim=0) / x.norm(norm, dim=0)
    assert float(ratios.max()) <= expected


@pytest.mark.parametrize("order", [1.0, 2.0, INF])
def test_no_gradient_of_a_margin_is_longer_than_the_bound(order: float) -> None:
    network = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    layers = layers_of(network, (5,))
    bound = margin_slopes(layers, order)
    x = (3 * torch.randn(400, 5, dtype=torch.float64)).requires_grad_(True)
    scores = network(x)
    for y, c in itertools.permutations(range(3), 2):
        margin = (scores[:, y] - scores[:, c]).sum()
        (gradient,) = torch.autograd.grad(margin, x, retain_graph=True)
        longest = float(gradient.norm(order, dim=1).max())
        assert 0 < longest <= float(bound[y, c])
    assert not bound.diagonal().any()


@pytest.mark.parametrize("order", [1.0, 2.0, INF])
def test_one_unit_is_bounded_exactly(order: float) -> None:
    network = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 2)).double()
    w, u = network[0].weight[0].detach(), network[2].weight[:, 0].detach()
    expected = float((u[0] - u[1]).abs() * w.norm(order))
    assert float(margin_slopes(layers_of(network, (4,)), order)[0, 1]) == pytest.approx(expected)


def test_absolute_weights_bound_l_inf_more_tightly_than_operator_norms() -> None:
    # Two units on disjoint features: operator norms multiply the longest row by both outputs.
    network = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 0.1, 0.1]]))
        network[2].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert float(margin_slopes(layers_of(network, (4,)), 1.0)[0, 1]) == pytest.approx(2.2)


def test_slopes_of_activations_multiply() -> None:
    weights = [nn.Linear(3, 3), nn.Linear(3, 2)]
    plain = nn.Sequential(weights[0], nn.ReLU(), weights[1])
    flat = nn.Sequential(weights[0], nn.Sigmoid(), nn.LeakyReLU(2.0), weights[1])
    found, expected = (margin_slopes(layers_of(network, (3,)), 2.0) for network in (flat, plain))
    torch.testing.assert_close(found, 0.5 * expected)
