from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator

from sparsecode import SparseCodes
from sparsecode.decomposition.rows import choose_device, decoded, read_rows, written


def read(X: Any, *, allow_nan: bool = False, device: str = "cpu") -> torch.Tensor:
    return read_rows(BaseEstimator(), X, reset=True, device=device, allow_nan=allow_nan)


def test_arrays_and_tensors_are_read_alike() -> None:
    X = np.arange(6).reshape(3, 2)
    assert torch.equal(read(X), read(torch.from_numpy(X)))
    assert read(X).dtype == torch.float64
    assert read(X.astype(np.float32)).dtype == torch.float32


def test_nan_is_read_only_where_it_is_allowed() -> None:
    X = np.array([[1.0, np.nan]])
    assert read(X, allow_nan=True).isnan().sum() == 1
    assert read(torch.from_numpy(X), allow_nan=True).isnan().sum() == 1
    for given in (X, torch.from_numpy(X)):
        with pytest.raises(ValueError, match=r"NaN|finite"):
            read(given)
    with pytest.raises(ValueError, match="finite"):
        read(torch.tensor([[torch.inf]]), allow_nan=True)


@pytest.mark.parametrize("X", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 2).cfloat()])
def test_other_tensors_are_refused(X: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"`X` must be a real tensor of shape \(n_samples"):
        read(X)


def test_codes_are_written_as_their_rows_came() -> None:
    codes = SparseCodes(torch.tensor([[2.0], [3.0]]), torch.tensor([[1], [0]]), 3)
    dense = [[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]
    assert written(codes, torch.zeros(2, 4), False).tolist() == dense
    assert isinstance(written(codes, np.zeros((2, 4)), False), np.ndarray)
    assert isinstance(written(codes, np.zeros((2, 4)), True), csr_matrix)
    assert written(codes, torch.zeros(2, 4), True).toarray().tolist() == dense


def test_codes_of_every_kind_are_decoded() -> None:
    components, codes = np.eye(3)[:2], np.array([[1.0, 2.0]])
    for given in (codes, csr_matrix(codes), torch.from_numpy(codes)):
        assert np.asarray(decoded(given, components)).tolist() == [[1.0, 2.0, 0.0]]
    with pytest.raises(ValueError, match=r"\(any, 2\); got \(1, 3\)"):
        decoded(np.zeros((1, 3)), components)


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match='`device` must be "auto" or a torch device'):
        choose_device("tpu-9")


def test_codes_of_whole_numbers_are_decoded_and_nan_is_refused() -> None:
    atoms = np.array([[0.5, 0.25], [1.0, 2.0]])
    assert decoded(torch.ones(1, 2, dtype=torch.int64), atoms).tolist() == [[1.5, 2.25]]
    with pytest.raises(ValueError, match="`X` must be finite; got NaN"):
        decoded(torch.full((1, 2), torch.nan), atoms)
