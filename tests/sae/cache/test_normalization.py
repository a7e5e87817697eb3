"""The factors that bring rows to a common scale."""

import pytest
import torch

from sae.cache.normalization import per_column, row_scale


def sample() -> torch.Tensor:
    drawn = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return drawn * torch.tensor([1.0, 2, 3, 40, 50, 60]) + 7.0


def test_mean_square_makes_the_squared_norm_of_each_block_its_width():
    blocks = (3, 3)
    scaled = sample() * per_column(row_scale(sample(), "mean_square", blocks), blocks)
    for block in scaled.split(3, dim=1):
        assert float(block.square().sum(1).mean()) == pytest.approx(3.0)


def test_per_feature_makes_variances_one_and_shifts_nothing():
    factors = per_column(row_scale(sample(), "per_feature", (6,)), (6,))
    scaled = sample() * factors
    torch.testing.assert_close(scaled.var(0, correction=0), torch.ones(6, dtype=torch.float64))
    assert (scaled.mean(0) > 0.05).all()


def test_constant_features_stay_small_beside_others_and_zeros_stay():
    rows = sample()
    rows[:, 0], rows[:, 3:] = 2.0, 0.0
    for kind in ("mean_square", "per_feature"):
        factors = per_column(row_scale(rows, kind, (3, 3)), (3, 3))
        assert torch.isfinite(factors).all()
        assert factors[3:].tolist() == [1.0, 1.0, 1.0]
    assert factors[0] <= 1e6 * factors[:3].min() * (1 + 1e-9)


def test_none_and_unknown_kinds():
    assert row_scale(sample(), "none", (6,)) is None
    with pytest.raises(
        ValueError, match="`kind` must be one of 'none', 'mean_square', 'per_feature'"
    ):
        row_scale(sample(), "unit", (6,))
