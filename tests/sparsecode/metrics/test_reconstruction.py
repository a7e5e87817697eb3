import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecode.metrics import ReconstructionSums, explained_variance, fvu


def oracle(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, with numpy's own variance."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return float(((x - y) ** 2).sum() / (x.var(axis=0).sum() * len(x)))


def rows_and_reconstruction(n: int = 211, d: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, d) * torch.logspace(-1, 1, d) + torch.linspace(-3, 5, d)
    return x, x + 0.3 * torch.randn(n, d)


def test_fvu_is_the_ratio_that_numpy_gives():
    x, y = rows_and_reconstruction()
    assert fvu(x, y) == pytest.approx(oracle(x.numpy(), y.numpy()), rel=1e-12)
    assert explained_variance(x.numpy(), y.numpy()) == 1.0 - fvu(x, y)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_the_result_does_not_depend_on_the_batches(sizes):
    x, y = rows_and_reconstruction(sum(sizes) + 2)
    sums = ReconstructionSums(x.shape[1])
    for part, other in zip(x.split([*sizes, 2]), y.split([*sizes, 2]), strict=True):
        sums.add(part, other)
    assert sums.n_rows == len(x)
    assert sums.fvu == pytest.approx(fvu(x, y), rel=1e-12)
    assert sums.cosine == pytest.approx(
        float(torch.cosine_similarity(x.double(), y.double()).mean()), rel=1e-12
    )
    assert sums.mse == pytest.approx(float((x - y).double().square().sum(1).mean()), rel=1e-6)
    assert sums.variance == pytest.approx(x.double().numpy().var(axis=0).sum(), rel=1e-12)


def test_a_constant_offset_changes_nothing():
    # Values and offset are multiples of 1/64 below 2^17, so the shift itself is exact in float32.
    x = torch.randint(-64, 65, (300, 5)) / 64.0
    y = x + torch.randint(-8, 9, (300, 5)) / 64.0
    offset = torch.tensor([2.0**16, -(2.0**15), 0.0, 1000.0, -7.0])
    moved = ReconstructionSums(5)
    for part, other in zip((x + offset).split(37), (y + offset).split(37), strict=True):
        moved.add(part, other)
    assert moved.fvu == pytest.approx(fvu(x, y), rel=1e-9)


def test_formulas_in_use_elsewhere_give_other_values():
    x, y = rows_and_reconstruction()
    x, y = x.double() + 4.0, y.double() + 4.0
    true = fvu(x, y)
    # Around zero: a data set far from the origin looks explained.
    around_zero = float((x - y).square().sum() / x.square().sum())
    assert around_zero < 0.8 * true
    # E||x||^2 minus the square of the mean of x^2, as SAELens computed it until 2026: not even
    # the same for the same data in another unit, while ours is.
    assert uncentered(10 * x, 10 * y) != pytest.approx(uncentered(x, y), rel=1e-3)
    assert fvu(10 * x, 10 * y) == pytest.approx(true, rel=1e-12)
    # The variance of the residual, as dictionary_learning has it: blind to a constant error.
    shifted = y + 2.0
    residual_variance = float((x - shifted).var(0).sum() / x.var(0).sum())
    assert residual_variance == pytest.approx(float((x - y).var(0).sum() / x.var(0).sum()))
    assert fvu(x, shifted) > 1.2 * true
    # The mean of each batch: depends on the batch size.
    ratios = [per_batch(x, y, size) for size in (2, 211)]
    assert ratios[0] > 1.3 * ratios[1]


def uncentered(x: torch.Tensor, y: torch.Tensor) -> float:
    per_row = (x - y).square().sum(1).mean()
    return float(per_row / (x.square().sum(1).mean() - x.square().mean(0).mean() ** 2))


def per_batch(x: torch.Tensor, y: torch.Tensor, size: int) -> float:
    batches = [(a, b) for a, b in zip(x.split(size), y.split(size), strict=True) if len(a) > 1]
    ratios = [(a - b).square().sum() / (a - a.mean(0)).square().sum() for a, b in batches]
    return float(torch.stack(ratios).mean())


def test_data_without_variance_give_no_nan():
    same = torch.full((4, 3), 2.5)
    assert fvu(same, same) == 0.0
    assert fvu(same, same + 1) == math.inf
    assert fvu(same[:1], same[:1]) == 0.0
    assert math.isnan(fvu(same[:0], same[:0]))


def test_nan_shows():
    x = torch.ones(3, 2)
    x[1, 1] = math.nan
    assert math.isnan(fvu(x, torch.zeros(3, 2)))


def test_rows_of_zeros_have_cosine_0():
    sums = ReconstructionSums(2)
    sums.add(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    assert sums.cosine == 0.5


def test_half_precision_is_summed_in_float64():
    x = torch.randn(5000, 3).half()
    y = (x.float() * 0.9).half()
    assert fvu(x, y) == pytest.approx(oracle(x.numpy(), y.numpy()), rel=1e-12)


@pytest.mark.parametrize(("x", "y"), [((3, 2), (3, 1)), ((3, 2), (2, 2)), ((), ())])
def test_shapes_must_agree(x, y):
    with pytest.raises(ValueError, match=r"must have (the )?shape"):
        fvu(torch.zeros(x), torch.zeros(y))
