import pytest
import torch

from sparsecode.penalties import L0, AbstractPenalty, CoordinateSeparable, Subdifferentiable

GRID = torch.linspace(-6, 6, 120_001, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 2.1])
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_prox_is_the_minimum_on_a_grid(alpha: float, step: float) -> None:
    # The grid holds 0 only up to rounding.
    grid = GRID.where(GRID.abs() > 1e-9, 0.0)
    for z in torch.linspace(-4, 4, 17, dtype=torch.float64):
        costs = 0.5 * (grid - z) ** 2 + step * alpha * (grid != 0)
        found = float(L0(alpha).prox(z, step))
        assert found == pytest.approx(float(grid[costs.argmin()]), abs=1e-4)


def test_value_counts_entries() -> None:
    value = L0(0.5).value(torch.tensor([[1.0, -2.0], [0.0, 3e9]]))
    assert float(value) == 1.5
    assert value.dtype == torch.float32


def test_entries_that_cost_as_much_as_zero_become_zero() -> None:
    assert L0(2.0).prox(torch.tensor([2.0, -2.0, 2.001]), 1.0).tolist() == [
        0,
        0,
        pytest.approx(2.001),
    ]


def test_prox_again_changes_nothing() -> None:
    once = L0(0.4).prox(torch.randn(1000, dtype=torch.float64), 0.7)
    assert torch.equal(L0(0.4).prox(once, 0.7), once)


def test_it_promises_no_subdifferential() -> None:
    assert isinstance(L0(1.0), AbstractPenalty)
    assert isinstance(L0(1.0), CoordinateSeparable)
    assert isinstance(L0(1.0), Subdifferentiable)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prox_keeps_dtype_and_shape(dtype: torch.dtype) -> None:
    z = torch.randn(3, 1, 5, dtype=dtype)
    assert L0(0.1).prox(z, 0.5).dtype == dtype
    assert L0(0.1).prox(z, 0.5).shape == z.shape


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`alpha` must be a finite number in \[0, inf\); got -1"):
        L0(-1.0)
