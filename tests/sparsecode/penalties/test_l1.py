import pytest
import torch

from sparsecode.penalties import L1

GRID = torch.linspace(-6, 6, 120_001, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_prox_is_the_minimum_on_a_grid(alpha: float, step: float) -> None:
    penalty = L1(alpha)
    for z in torch.linspace(-4, 4, 17, dtype=torch.float64):
        costs = 0.5 * (GRID - z) ** 2 + step * alpha * GRID.abs()
        assert float(penalty.prox(z, step)) == pytest.approx(float(GRID[costs.argmin()]), abs=1e-4)


def test_value_is_the_weighted_sum_of_magnitudes() -> None:
    assert float(L1(0.5).value(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))) == 3.0


def test_prox_is_firmly_nonexpansive() -> None:
    x, y = torch.randn(2, 1000, dtype=torch.float64)
    moved = L1(0.4).prox(x, 0.7) - L1(0.4).prox(y, 0.7)
    assert (moved**2 <= moved * (x - y) + 1e-12).all()


def test_prox_is_stationary() -> None:
    z = torch.randn(100, dtype=torch.float64)
    penalty, step = L1(0.8), 0.5
    u = penalty.prox(z, step)
    assert (u == 0).any()
    assert (u != 0).any()
    assert penalty.subdiff_distance(u, (u - z) / step).max() < 1e-12


def test_distance_to_the_subdifferential_in_closed_form() -> None:
    z = torch.tensor([0.0, 0.0, 2.0, -1.0])
    gradient = torch.tensor([0.5, -3.0, 0.5, 1.0])
    assert L1(1.0).subdiff_distance(z, gradient).tolist() == [0.0, 2.0, 1.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prox_keeps_dtype_and_shape(dtype: torch.dtype) -> None:
    z = torch.randn(3, 1, 5, dtype=dtype)
    assert L1(0.1).prox(z, 0.5).dtype == dtype
    assert L1(0.1).prox(z, 0.5).shape == z.shape


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`alpha` must be a finite number in \[0, inf\); got -1"):
        L1(-1.0)
