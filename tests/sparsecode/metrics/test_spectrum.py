"""Entropies and ranks of rows with a known spectrum."""

import math

import numpy as np
import pytest
import torch

from sparsecode.metrics import effective_rank, matrix_entropy, nuclear_norm_surrogate


def test_rows_that_fill_directions_equally() -> None:
    rows = torch.cat([torch.eye(5), -torch.eye(5)])
    assert matrix_entropy(rows) == pytest.approx(math.log(5))
    assert matrix_entropy(rows, normalized=True) == pytest.approx(1.0)
    assert effective_rank(rows) == pytest.approx(5.0)
    assert matrix_entropy(rows, n_eigenvalues=2) == pytest.approx(2 / 5 * math.log(5))


def test_entropy_is_that_of_the_eigenvalues() -> None:
    x = torch.randn(50, 7, dtype=torch.float64) * torch.arange(1, 8) + 3
    values = np.linalg.eigvalsh(np.cov(x.numpy().T))
    p = values / values.sum()
    expected = -(p * np.log(p)).sum()
    assert matrix_entropy(x, unit_rows=False) == pytest.approx(expected)
    assert effective_rank(x, unit_rows=False) == pytest.approx(math.exp(expected))
    # More columns than rows: the smaller Gram matrix has the same eigenvalues.
    assert matrix_entropy(x[:4], unit_rows=False, center=False) == pytest.approx(
        matrix_entropy(x[:4] @ torch.linalg.qr(torch.randn(7, 7).double())[0], unit_rows=False,
                       center=False)
    )  # fmt: skip


def test_scale_and_offset_do_not_matter() -> None:
    x = torch.randn(40, 6)
    assert matrix_entropy(x * 100 + 5) == pytest.approx(matrix_entropy(x), rel=1e-4)
    assert matrix_entropy(x.reshape(5, 8, 6)) == pytest.approx(matrix_entropy(x))


def test_rows_without_extent() -> None:
    rows = torch.ones(5, 3)
    assert matrix_entropy(rows) == 0.0
    assert effective_rank(rows) == 0.0
    assert effective_rank(torch.arange(5.0)[:, None] * torch.ones(3)) == pytest.approx(1.0)


def test_the_surrogate_bounds_the_nuclear_norm_and_is_it_for_orthogonal_columns() -> None:
    x = torch.randn(30, 8, dtype=torch.float64)
    exact = float(torch.linalg.matrix_norm(x, "nuc"))
    assert nuclear_norm_surrogate(x) >= exact
    orthogonal = torch.linalg.qr(x)[0] * torch.arange(1, 9)
    assert nuclear_norm_surrogate(orthogonal) == pytest.approx(36.0)
    assert nuclear_norm_surrogate(torch.tensor([[3.0, -4.0, 1.0]])) == 4.0  # min(N, D) columns


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`rows` must have shape \(..., n_features\); got \(3,\)"):
        matrix_entropy(torch.ones(3))
    with pytest.raises(TypeError, match="`rows` must be a floating tensor"):
        effective_rank(torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="`n_eigenvalues` must be an int in"):
        matrix_entropy(torch.randn(4, 3), n_eigenvalues=0)
