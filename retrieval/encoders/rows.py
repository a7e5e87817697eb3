"""Embeddings at the boundary of encoders: arrays, tensors, files on disk; rows side by side."""

import math
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.utils.validation import column_or_1d, validate_data
from torch import Tensor, nn

from sparsecode._checks import check_finite
from sparsecode.codes import SparseCodes
from sparsecode.training import AbstractTask, RowSource, TrainConfig, TrainState, train
from sparsecode.training.array_rows import ArrayRows

KINDS: Any = [np.float64, np.float32]
LARGEST = 1e15  # sums of squares still fit into float32, in which the weights are
CHUNK_ENTRIES = 1 << 24  # of inputs or activations that are held at a time
ALIGNED_ROWS = 16  # for fewer rows, matrix products may take another kernel and round differently


def read_embeddings(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Return `X` as a floating matrix of finite numbers; what is on disk stays there.

    Parameters
    ----------
    estimator : BaseEstimator
        Gets the attributes that scikit-learn wants where `reset`, and is compared with otherwise.
    X : array, data frame, Tensor, memory-mapped array, or path of a .npy file
        Memory-mapped rows are read, and checked for NaN, a part at a time where they are used.
    reset : bool

    Returns
    -------
    ndarray or Tensor of shape (n_samples, n_features)
    """
    if isinstance(X, (str, Path)):
        X = np.load(_existing(Path(X)), mmap_mode="r")
    if isinstance(X, np.memmap):
        if X.ndim != 2 or 0 in X.shape or X.dtype.kind not in "fiu":
            raise ValueError(
                "`X` must hold real numbers of shape (n_samples, n_features) with at least one "
                f"row and feature; got shape {X.shape}, dtype {X.dtype}."
            )
        mapped: Any = X
        validate_data(estimator, mapped, reset=reset, skip_check_array=True)
        return mapped
    if isinstance(X, Tensor):
        if X.ndim != 2 or 0 in X.shape or X.is_complex():
            raise ValueError(
                "`X` must be a real tensor of shape (n_samples, n_features) with at least one row "
                f"and feature; got shape {tuple(X.shape)}, dtype {str(X.dtype)[6:]}."
            )
        rows: Any = check_finite("X", X.detach() if X.is_floating_point() else X.float())
        _check_size(float(rows.abs().max()))
        validate_data(estimator, rows, reset=reset, skip_check_array=True)
        return rows
    X = validate_data(estimator, X, reset=reset, dtype=KINDS)
    _check_size(max(float(X.max()), -float(X.min())))
    return X


def label_column(y: Any, n_rows: int) -> np.ndarray:
    """Return the numbers of labels as a column, one number for each different label.

    Parameters
    ----------
    y : array of shape (n_rows,)
    n_rows : int

    Returns
    -------
    ndarray of shape (n_rows, 1), float32
    """
    labels = column_or_1d(y, warn=True)
    if len(labels) != n_rows:
        raise ValueError(
            f"`y` must hold a label for each row of `X`, n_samples={n_rows}; got {len(labels)}."
        )
    found, ids = np.unique(labels, return_inverse=True)
    if len(found) > 1 << 24:
        raise ValueError(f"`y` must have at most {1 << 24} different labels; got {len(found)}.")
    return ids.reshape(-1, 1).astype(np.float32)


def trained(task: AbstractTask, source: RowSource, config: TrainConfig) -> TrainState:
    """Train a module that its estimator takes over at the end alone.

    Parameters
    ----------
    task : AbstractTask
    source : RowSource
    config : TrainConfig

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C.
    """
    try:
        state, _ = train(task, source, config)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "`fit` was stopped before its end, and the encoder is as it was before the call."
        ) from None
    return state


def sampled(source: RowSource, n_rows: int, seed: int) -> Tensor:
    """Return rows from all over a source.

    Parameters
    ----------
    source : RowSource
    n_rows : int
        At most; no more than there are.
    seed : int
    """
    with closing(source.batches(min(n_rows, source.n_rows), seed=seed, start_row=0)) as batches:
        return next(batches)


class SideBySide:
    """Rows of several matrices with equally many rows, side by side, as one source of rows.

    Parameters
    ----------
    *parts : array or Tensor of shape (N, D_i)
        May be memory-mapped: only the rows of a batch are read.

    Examples
    --------
    >>> source = SideBySide(np.zeros((3, 2)), np.ones((3, 1)))
    >>> next(source.batches(1, seed=0, start_row=0))
    tensor([[0., 0., 1.]])
    """

    def __init__(self, *parts: Any) -> None:
        self._parts = [ArrayRows(part) for part in parts]
        self.n_rows = self._parts[0].n_rows
        self.n_features = sum(part.n_features for part in self._parts)
        if any(part.n_rows != self.n_rows for part in self._parts):
            raise ValueError(
                "Parts must have equally many rows; "
                f"got {', '.join(str(part.n_rows) for part in self._parts)}."
            )
        # Row numbers in float64 are exact, and go through the one shuffling there is.
        self._numbers = ArrayRows(np.arange(self.n_rows, dtype=np.float64)[:, None])

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows in their stored order."""
        return _beside([part.rows(start, stop).float() for part in self._parts])

    def batches(
        self, batch_size: int, *, seed: int = 0, start_row: int = 0
    ) -> Generator[Tensor, None, None]:
        """Yield batches without end, after skipping `start_row` rows of the stream."""
        for numbers in self._numbers.batches(batch_size, seed=seed, start_row=start_row):
            ids = numbers[:, 0].long().numpy()
            yield _beside([_picked(part.array, ids) for part in self._parts])


def check_trainable(name: str, module: nn.Module) -> None:
    """Refuse weights that are not float32: rows of data, with ids and labels, take their dtype.

    Parameters
    ----------
    name : str
    module : nn.Module
    """
    others = {p.dtype for p in module.parameters() if p.is_floating_point()} - {torch.float32}
    if others:
        found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        raise ValueError(
            f"`{name}` must have float32 weights to be trained; got {found}. "
            f"Call `{name}.float()` first."
        )


def spans(n_rows: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield runs of rows of which a dense matrix of that width may be held.

    Parameters
    ----------
    n_rows : int
    width : int
    """
    size = max(ALIGNED_ROWS, CHUNK_ENTRIES // width)
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)


def finite_rows(source: ArrayRows, start: int, stop: int) -> Tensor:
    """Return some rows, or refuse those with NaN or infinity by their number in the whole.

    Parameters
    ----------
    source : ArrayRows
    start, stop : int
    """
    part = source.rows(start, stop)
    bad = ~torch.isfinite(part).all(1)
    if bool(bad.any()):
        first = start + int(bad.nonzero()[0])
        raise ValueError(
            f"`X` must be finite; got NaN or infinity, first in row {first}. "
            "Drop or repair those rows first."
        )
    _check_size(float(part.abs().max()) if len(part) else 0.0)
    return part


def padded(rows: Tensor) -> Tensor:
    """Return rows with rows of zeros below, so that few round as many do.

    Parameters
    ----------
    rows : Tensor of shape (N, D)
    """
    missing = max(0, ALIGNED_ROWS - len(rows))
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)).contiguous()


def as_csr(codes: SparseCodes) -> scipy.sparse.csr_matrix:
    """Return codes as CSR of float32: sorted, small indices, no explicit zeros.

    Parameters
    ----------
    codes : SparseCodes of shape (N, F)
    """
    rows = scipy.sparse.csr_matrix(codes.to_scipy(), dtype=np.float32)
    rows.eliminate_zeros()
    return rows


def stacked(parts: list[scipy.sparse.csr_matrix]) -> scipy.sparse.csr_matrix:
    """Return CSR matrices below each other.

    Parameters
    ----------
    parts : list of csr_matrix
    """
    if len(parts) == 1:
        return parts[0]
    rows: Any = scipy.sparse.vstack(parts, format="csr")
    return rows


def _beside(parts: list[Tensor]) -> Tensor:
    """Return matrices side by side, on the device of the first."""
    return torch.cat([part.to(parts[0].device) for part in parts], dim=1)


def _picked(array: Any, ids: np.ndarray) -> Tensor:
    part = array[ids]
    if not isinstance(part, Tensor):
        part = torch.from_numpy(np.array(part, part.dtype.newbyteorder("="), order="C"))
    _check_size(float(part.abs().max()))
    return part.float()


def _check_size(largest: float) -> None:
    """Refuse finite entries that are too large; others have messages of their own."""
    if LARGEST < largest < math.inf:
        raise ValueError(
            f"`X` must have entries of at most {LARGEST:g} in size, since weights are in float32; "
            f"got {largest:g}. Rescale the data."
        )


def _existing(path: Path) -> Path:
    if not path.is_file() or path.suffix != ".npy":
        raise ValueError(f"`X` must be the path of an existing .npy file; got {str(path)!r}.")
    return path
