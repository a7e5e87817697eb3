"""Gini coefficients and participation ratios of known rows, dense and sparse."""

import numpy as np
import pytest
import torch

from sparsecode import topk
from sparsecode.metrics import gini, participation_ratio


def test_known_rows() -> None:
    one, all_ = torch.tensor([[0.0, 0.0, -5.0, 0.0]]), torch.full((1, 4), 2.0)
    assert gini(one) == pytest.approx(0.75)
    assert gini(all_) == pytest.approx(0.0)
    assert participation_ratio(one) == pytest.approx(1.0)
    assert participation_ratio(all_) == pytest.approx(4.0)


def test_gini_is_the_mean_absolute_difference() -> None:
    x = np.abs(np.random.default_rng(0).normal(size=9))
    expected = np.abs(x[:, None] - x[None]).sum() / (2 * 9 * x.sum())
    assert gini(x[None]) == pytest.approx(expected)


@pytest.mark.parametrize("metric", [gini, participation_ratio])
def test_sparse_codes_are_as_their_dense_rows(metric) -> None:
    codes = topk(torch.randn(20, 12), 4)
    assert metric(codes) == pytest.approx(metric(codes.to_dense()))
    assert metric(codes.to_ragged()) == pytest.approx(metric(codes.to_dense()))


@pytest.mark.parametrize("metric", [gini, participation_ratio])
def test_scale_does_not_matter_and_zeros_are_left_out(metric) -> None:
    x = torch.randn(5, 6)
    assert metric(1e30 * x.double()) == pytest.approx(metric(x), rel=1e-5)
    assert metric(torch.cat([x, torch.zeros(2, 6)])) == pytest.approx(metric(x))
    assert np.isnan(metric(torch.zeros(2, 3)))
    with pytest.raises(ValueError, match="`codes` must have shape"):
        metric(torch.tensor(1.0))
