"""Mean and norms against the closed form, in pieces and through JSON."""

import json

import numpy as np
import pytest
import torch

from sae.cache import RowStatistics


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_statistics_equal_numpy_in_float64(dtype: torch.dtype) -> None:
    rows = (torch.randn(1537, 7) * 3 + 5).to(dtype)
    found = RowStatistics(7)
    for piece in rows.split([1, 511, 512, 513]):
        found.update(piece)
    exact = rows.double().numpy()
    norms = np.linalg.norm(exact, axis=1)
    assert found.rows == 1537
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.mean_norm, norms.mean(), rtol=1e-12)
    np.testing.assert_allclose(found.mean_squared_norm, (norms**2).mean(), rtol=1e-12)
    np.testing.assert_allclose(found.variance, exact.var(0).sum(), rtol=1e-9)
    assert found.norm_max == norms.max()


def test_quantiles_of_the_norm_are_right_to_a_percent() -> None:
    rows = torch.randn(20_000, 1).exp()
    found = RowStatistics(1)
    found.update(rows)
    for q in (0.01, 0.25, 0.5, 0.9, 0.999):
        assert found.norm_quantile(q) == pytest.approx(rows.quantile(q).item(), rel=0.012)
    assert found.norm_quantile(1) <= found.norm_max == rows.max()


def test_rows_of_zeros_and_extreme_rows_are_counted() -> None:
    found = RowStatistics(2)
    found.update(torch.tensor([[0.0, 0.0], [3e38, 0.0], [1e-40, 0.0]]))
    assert found.rows == sum(found.to_json()["norm_histogram"].values()) == 3
    assert found.norm_max == pytest.approx(3e38)
    assert found.norm_quantile(0) < 1e-11


def test_the_state_survives_json_exactly() -> None:
    found = RowStatistics(5)
    found.update(torch.randn(100, 5))
    copy = RowStatistics.from_json(json.loads(json.dumps(found.to_json())))
    for one in (found, copy):
        one.update(torch.ones(3, 5) / 3)
    assert copy.to_json() == found.to_json()
    assert torch.equal(copy.mean, found.mean)
