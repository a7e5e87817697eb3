"""Rows and codes at the boundary of estimators: arrays or tensors in, the same kind out."""

from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from sparsecode._checks import as_tensor, check_finite, check_floating, check_shape
from sparsecode.codes import SparseCodes

KINDS: Any = [np.float64, np.float32]


class AddsUpAtoms(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A transformer whose codes, times the atoms ``components_``, are rows again."""

    components_: np.ndarray

    def inverse_transform(self, X: Any) -> Any:
        """Return the rows that codes stand for, ``X @ components_``; no entry is missing.

        Parameters
        ----------
        X : array, csr_matrix or Tensor of shape (n_samples, n_components)

        Returns
        -------
        ndarray or Tensor of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        return decoded(X, self.components_)

    def _atoms(self, rows: Tensor) -> Tensor:
        """Return the atoms like `rows`; they may be read-only, as joblib maps them."""
        return as_tensor(self.components_).to(rows)

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def read_rows(estimator: Any, X: Any, *, reset: bool, device: str, allow_nan: bool) -> Tensor:
    """Return `X` as a checked tensor (N, D) on the device to compute on.

    Sets the attributes that scikit-learn wants where `reset`, and compares with them otherwise.
    """
    if isinstance(X, Tensor):
        if X.ndim != 2 or 0 in X.shape or X.is_complex():
            raise ValueError(
                "`X` must be a real tensor of shape (n_samples, n_features) with at least one row "
                f"and one feature; got shape {tuple(X.shape)}, dtype {X.dtype}."
            )
        rows = X.detach()
        rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.double()
        check_finite("X", rows.nan_to_num(nan=0.0, posinf=torch.inf) if allow_nan else rows)
        seen: Any = rows
        validate_data(estimator, seen, reset=reset, skip_check_array=True)
        return rows.to(choose_device(device)) if device != "auto" else rows
    finite: Any = "allow-nan" if allow_nan else True
    array = validate_data(estimator, X, reset=reset, dtype=KINDS, ensure_all_finite=finite)
    writable = np.require(array, requirements=["C", "W"])
    return torch.from_numpy(writable).to(choose_device(device))


def read_matrix(
    name: str, given: Any, shape: tuple[int | None, int], axes: tuple[str, str]
) -> Tensor:
    """Return a matrix that a parameter holds as a checked tensor that NumPy can hold too.

    Integers become float64, as in scikit-learn, and half precision becomes float32.
    """
    matrix = as_tensor(given if isinstance(given, Tensor) else np.asarray(given)).detach()
    if not matrix.is_floating_point() and not matrix.is_complex():
        matrix = matrix.double()
    matrix = check_floating(name, matrix)
    matrix = matrix.float() if matrix.dtype.itemsize < 4 else matrix
    return check_finite(name, check_shape(name, matrix, shape, axes), advice="Repair it first.")


def written(codes: SparseCodes, X: Any, sparse_output: bool) -> Any:
    """Return codes as CSR, as a tensor on the device of `X`, or as an array."""
    if sparse_output:
        return codes.to_scipy()
    dense = codes.to_dense()
    return dense.to(X.device) if isinstance(X, Tensor) else dense.cpu().numpy()


def decoded(X: Any, components: np.ndarray) -> Any:
    """Return ``X @ components`` for codes as CSR, array or tensor."""
    if isinstance(X, Tensor):
        _check_width(X, components)
        X = check_finite("X", X if X.is_floating_point() else X.double())
        return X @ as_tensor(components).to(X)
    csr: Any = "csr"
    X = check_array(X, accept_sparse=csr, dtype=KINDS, input_name="X")
    _check_width(X, components)
    rows = X @ components.astype(X.dtype, copy=False)
    return rows.toarray() if scipy.sparse.issparse(rows) else np.asarray(rows)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f'`device` must be "auto" or a torch device; got {name!r}.') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` must be usable; got {name!r}, but torch sees no GPU here.")
    return device


def _check_width(X: Any, components: np.ndarray) -> None:
    if len(X.shape) != 2 or X.shape[1] != len(components):
        raise ValueError(
            "`X` must hold codes of shape (n_samples, n_components) = "
            f"(any, {len(components)}); got {tuple(X.shape)}."
        )
