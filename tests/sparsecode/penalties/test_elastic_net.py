import pytest
import torch

from sparsecode.penalties import (
    L1,
    AbstractPenalty,
    CoordinateSeparable,
    ElasticNet,
    Subdifferentiable,
)

GRID = torch.linspace(-6, 6, 120_001, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("l2", [0.0, 0.7])
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_prox_is_the_minimum_on_a_grid(alpha: float, l2: float, step: float) -> None:
    penalty = ElasticNet(alpha, l2)
    for z in torch.linspace(-4, 4, 17, dtype=torch.float64):
        costs = 0.5 * (GRID - z) ** 2 + step * (alpha * GRID.abs() + 0.5 * l2 * GRID**2)
        assert float(penalty.prox(z, step)) == pytest.approx(float(GRID[costs.argmin()]), abs=1e-4)


def test_value_in_closed_form() -> None:
    z = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    assert float(ElasticNet(0.5, 0.1).value(z)) == pytest.approx(0.5 * 6 + 0.05 * 14)


def test_without_l2_it_is_l1() -> None:
    z, gradient = torch.randn(2, 50, dtype=torch.float64)
    net, l1 = ElasticNet(0.4, 0.0), L1(0.4)
    assert torch.equal(net.value(z), l1.value(z))
    assert torch.equal(net.prox(z, 0.7), l1.prox(z, 0.7))
    assert torch.equal(net.subdiff_distance(z, gradient), l1.subdiff_distance(z, gradient))


def test_prox_is_firmly_nonexpansive() -> None:
    x, y = torch.randn(2, 1000, dtype=torch.float64)
    moved = ElasticNet(0.4, 0.5).prox(x, 0.7) - ElasticNet(0.4, 0.5).prox(y, 0.7)
    assert (moved**2 <= moved * (x - y) + 1e-12).all()


def test_prox_is_stationary() -> None:
    z = torch.randn(100, dtype=torch.float64)
    penalty, step = ElasticNet(0.8, 0.6), 0.5
    u = penalty.prox(z, step)
    assert (u == 0).any()
    assert (u != 0).any()
    assert penalty.subdiff_distance(u, (u - z) / step).max() < 1e-12
    assert penalty.subdiff_distance(u, (u - z) / step + 2.0).min() > 0.1


def test_solvers_find_its_abilities() -> None:
    for ability in (AbstractPenalty, Subdifferentiable, CoordinateSeparable):
        assert isinstance(ElasticNet(1.0, 1.0), ability)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prox_keeps_dtype_and_shape(dtype: torch.dtype) -> None:
    z = torch.randn(3, 1, 5, dtype=dtype)
    assert ElasticNet(0.1, 0.2).prox(z, 0.5).dtype == dtype
    assert ElasticNet(0.1, 0.2).prox(z, 0.5).shape == z.shape


@pytest.mark.parametrize(("alpha", "l2", "name"), [(-1.0, 0.0, "alpha"), (0.0, -1.0, "l2_alpha")])
def test_a_negative_weight_is_refused(alpha: float, l2: float, name: str) -> None:
    message = rf"`{name}` must be a finite number in \[0, inf\); got -1"
    with pytest.raises(ValueError, match=message):
        ElasticNet(alpha, l2)
