import pytest
import torch

from sparsecode.datafits import (
    AbstractDatafit,
    Huber,
    MaskedQuadratic,
    Quadratic,
    WeightedQuadratic,
)

X = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MASK = torch.rand(5, 7, generator=torch.Generator().manual_seed(1)) < 0.6
WEIGHTS = torch.rand(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 3
EXAMPLES: list[AbstractDatafit] = [
    Quadratic(),
    MaskedQuadratic(MASK),
    MaskedQuadratic(MASK[0]),
    WeightedQuadratic(WEIGHTS),
    WeightedQuadratic(WEIGHTS[0]),
    Huber(0.5),
]
each_datafit = pytest.mark.parametrize("datafit", EXAMPLES, ids=lambda f: type(f).__name__)


@each_datafit
def test_the_gradient_is_that_of_the_value(datafit: AbstractDatafit) -> None:
    y = torch.randn_like(X).requires_grad_()
    (expected,) = torch.autograd.grad(datafit.value(X, y).sum(), y)
    torch.testing.assert_close(datafit.gradient(X, y), expected)


@each_datafit
def test_the_curvature_bounds_the_change_of_the_gradient(datafit: AbstractDatafit) -> None:
    y = torch.randn_like(X)
    moved = datafit.gradient(X, y + 0.1) - datafit.gradient(X, y)
    assert (moved <= 0.1 * datafit.curvature() + 1e-12).all()
    assert moved.max() > 0.05 * datafit.curvature()


@each_datafit
def test_rows_are_the_same_alone(datafit: AbstractDatafit) -> None:
    y = torch.zeros_like(X)
    for rows in (slice(1, 3), torch.tensor([4, 0])):
        alone = datafit.rows(rows).value(X[rows], y[rows])
        torch.testing.assert_close(alone, datafit.value(X, y)[rows])


def test_hidden_entries_may_hold_anything() -> None:
    spoiled = X.masked_fill(~MASK, torch.nan)
    datafit = MaskedQuadratic(MASK)
    y = torch.randn_like(X)
    torch.testing.assert_close(datafit.value(spoiled, y), datafit.value(X, y))
    assert (datafit.gradient(spoiled, y)[~MASK] == 0).all()


def test_equalities_between_datafits() -> None:
    y = torch.randn_like(X)
    squared = Quadratic().value(X, y)
    torch.testing.assert_close(Huber(1e6).value(X, y), squared)
    torch.testing.assert_close(WeightedQuadratic(torch.ones(7)).value(X, y), squared)
    masked = MaskedQuadratic(MASK).value(X, y)
    torch.testing.assert_close(WeightedQuadratic(MASK.double()).value(X, y), masked)


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="`mask` must be a bool tensor or array"):
        MaskedQuadratic(torch.ones(3))
    with pytest.raises(ValueError, match="`weights` must be at least 0; got -1"):
        WeightedQuadratic(-torch.ones(3))
    with pytest.raises(ValueError, match="`delta` must be a finite number"):
        Huber(0.0)
