import numpy as np
import pytest
import torch
from torch import Tensor

from sparsecode.decomposition.principal_rows import PrincipalRows

SHAPES = [(50, 7), (7, 50), (13, 13), (2, 1), (1, 5)]


def scatter(X: Tensor) -> Tensor:
    centered = X - X.mean(0)
    return centered.T @ centered


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_have_the_scatter_of_the_centered_data(shape: tuple[int, int]) -> None:
    X = torch.randn(shape, dtype=torch.float64) * 3 + 5
    data = PrincipalRows.of(X)
    torch.testing.assert_close(data.rows.T @ data.rows, scatter(X))
    torch.testing.assert_close(data.mean, X.mean(0))
    assert data.n_samples == shape[0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_are_orthogonal_and_ordered_and_as_many_as_the_rank(shape: tuple[int, int]) -> None:
    X = torch.randn(shape, dtype=torch.float64)
    rows = PrincipalRows.of(X).rows
    values = torch.linalg.svdvals(X - X.mean(0))
    values = values[values > 1e-6 * values.max()]
    torch.testing.assert_close(rows @ rows.T, values.square().diag())


@pytest.mark.parametrize("sizes", [(50,), (20, 30), (1, 1, 48), (3, 7, 40)], ids=str)
@pytest.mark.parametrize("n_features", [6, 200])
def test_batches_give_what_all_rows_at_once_give(sizes: tuple[int, ...], n_features: int) -> None:
    X = torch.randn(50, n_features, dtype=torch.float64) + 2
    data = PrincipalRows.empty(n_features)
    for batch in X.split(list(sizes)):
        data = data.updated(batch)
    torch.testing.assert_close(data.rows.T @ data.rows, scatter(X))
    torch.testing.assert_close(data.mean, X.mean(0))
    assert data.n_samples == 50


def test_chunks_do_not_change_the_result() -> None:
    X = torch.randn(101, 5, dtype=torch.float64)
    whole, chunked = PrincipalRows.of(X), PrincipalRows.of(X, chunk_rows=10)
    torch.testing.assert_close(chunked.rows.abs(), whole.rows.abs())


def test_a_large_offset_costs_no_precision() -> None:
    X = torch.randn(300, 4, dtype=torch.float64)
    shifted = PrincipalRows.of(X + 1e7, chunk_rows=50)
    torch.testing.assert_close(shifted.rows.T @ shifted.rows, scatter(X), rtol=1e-7, atol=1e-6)


def test_float32_rows_are_summed_in_float64() -> None:
    X = torch.randn(400, 5) + 100
    rows = PrincipalRows.of(X).rows
    assert rows.dtype == torch.float64
    torch.testing.assert_close(rows.T @ rows, scatter(X.double()))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)], ids=str)
def test_constant_data_has_no_rows(shape: tuple[int, int]) -> None:
    data = PrincipalRows.of(torch.full(shape, 2.0))
    assert data.rows.shape == (0, shape[1])
    assert data.total_variance == 0


def test_total_variance_is_the_sum_over_features() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    total = PrincipalRows.of(torch.from_numpy(X)).total_variance
    assert total == pytest.approx(X.var(0, ddof=1).sum())
