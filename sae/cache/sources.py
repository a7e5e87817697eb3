"""Arrays, tensors, ``.npy`` files and sparse matrices in the place of a cache."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sae.cache.base import SPLITS, AbstractSource, check_fraction
from sae.cache.format import JOURNAL, MANIFEST, from_bits, held_out_score, to_bits
from sae.cache.joined import JoinedSource, join
from sae.cache.mapped import pick, will_need
from sae.cache.reader import Cache
from sae.cache.reader import open as open_cache
from sae.cache.statistics import RowStatistics
from sparsecode._checks import check_choice

_BLOCK_BYTES = 2**20
_FLOATS = ("float16", "float32", "float64", "bfloat16", "f2", "f4", "f8")  # numpy: >f4
_RUN = 64  # most consecutive rows that are held out together
_HASHED_BYTES = 2**30  # most bytes that go into the fingerprint
_SPARSE = ("data", "indices", "indptr")


def as_source(
    data: Any,
    *,
    hookpoint: str | None = None,
    split: str | None = None,
    heldout_fraction: float = 0.1,
    n_features: int | None = None,
) -> AbstractSource:
    """Give anything that holds activations the interface of a cache.

    Parameters
    ----------
    data : path, Cache, tensor, array or CSR matrix
        A path is the folder of a cache or a ``.npy`` file, which is mapped and not read. Any byte
        order and any memory layout will do; the rows are copied a block at a time, and those of a
        sparse matrix are made dense.
    hookpoint : str or None, default=None
        For a cache with several. Names joined by "+" give their activations side by side, see
        `join`.
    split : {"train", "heldout"} or None, default=None
        Side of the split to read. None leaves an opened source as it is. Arrays are held out in
        runs of up to 64 rows.
    heldout_fraction : float, default=0.1
        Share to hold out. With 0, "train" is all rows.
    n_features : int or None, default=None
        Width that the rows must have.

    Returns
    -------
    AbstractSource

    Raises
    ------
    TypeError
        If the data are of another kind, or not floating.
    ValueError
        If the shape is wrong, rows are not finite, or a file is not what its name says.

    Examples
    --------
    >>> source = as_source(np.zeros((100, 8), dtype=np.float32), split="train")
    >>> source.n_features, next(source.batches(4)).shape
    (8, torch.Size([4, 8]))
    """
    if isinstance(data, Cache) and hookpoint not in (None, data.hookpoint):
        data = _at(data, str(hookpoint))
    if isinstance(data, AbstractSource):
        source = data if split is None else _with_split(data, split, heldout_fraction)
    elif isinstance(data, (str, Path)) and not str(data).endswith((".npy", ".npz")):
        source = _folder(Path(data), hookpoint, split, heldout_fraction)
    else:
        source = ArraySource(_matrix(data), split=split, heldout_fraction=heldout_fraction)
    if n_features is not None and source.n_features != n_features:
        raise ValueError(
            f"`data` must have shape (rows, n_features) = (any, {n_features}); "
            f"got ({source.n_rows}, {source.n_features})."
        )
    return source


class ArraySource(AbstractSource):
    """Rows of a matrix; made by `as_source`.

    Parameters
    ----------
    matrix : array, memory map, tensor or CSR matrix of shape (N, n_features)
    split : {"train", "heldout"} or None, default=None
    heldout_fraction : float, default=0.1
    """

    def __init__(
        self, matrix: Any, *, split: str | None = None, heldout_fraction: float = 0.1
    ) -> None:
        self.matrix = matrix
        self.split = None if split is None else check_choice("split", split, SPLITS)
        self.n_features = int(matrix.shape[1])
        self.dtype = (
            matrix.dtype if isinstance(matrix, Tensor) else getattr(torch, matrix.dtype.name)
        )
        self._block_rows = max(1, _BLOCK_BYTES // (self.n_features * self.dtype.itemsize))
        fraction = check_fraction(heldout_fraction, self.split)
        self._held = None if self.split is None else self._held_runs(fraction)
        starts = range(0, matrix.shape[0], self._block_rows)
        self._checked = np.zeros(len(starts), dtype=bool)
        self._ends = np.cumsum([self._selected(start).sum() for start in starts], dtype=np.int64)
        if not isinstance(matrix, np.memmap):
            for block in range(len(starts)):
                self._read_block(block)

    def __repr__(self) -> str:
        rest = f", split={self.split!r}" if self.split else ""
        dtype = str(self.dtype).removeprefix("torch.")
        kind = type(self.matrix).__name__
        return f"ArraySource({kind}{rest}: {self.n_rows} rows of {self.n_features} {dtype})"

    @cached_property
    def statistics(self) -> RowStatistics:
        """Mean and norms over all rows; the first use reads them all."""
        found = RowStatistics(self.n_features)
        for start in range(0, self.matrix.shape[0], self._block_rows):
            found.update(from_bits(np.array(self._rows(start)), self.dtype))
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Digest of shape, dtype, split and all values; the first use reads them.

        Of more than 1 GiB of values it covers 1 GiB, in evenly spread blocks of about 1 MiB, the
        first and the last block among them; a change in any other block then goes unnoticed.
        """
        digest = hashlib.blake2b(f"{tuple(self.matrix.shape)} {self.dtype} {self.split}".encode())
        if self._held is not None:
            digest.update(self._held.tobytes())
        n_blocks = len(self._checked)
        share = min(1.0, _HASHED_BYTES / _stored_bytes(self.matrix))
        for block in np.unique(np.linspace(0, n_blocks - 1, max(2, int(share * n_blocks)))):
            start = round(block) * self._block_rows
            _hash_rows(digest, self.matrix[start : start + self._block_rows])
        return digest.hexdigest()

    def _read_block(self, block: int) -> np.ndarray:
        start = block * self._block_rows
        rows = self._rows(start)
        if not self._checked[block]:
            _check_finite(from_bits(np.array(rows), self.dtype), start)
            self._checked[block] = True
        return rows if self._held is None else rows[self._selected(start)]

    def _prepare(self, blocks: np.ndarray) -> None:
        for block in blocks:
            if not self._checked[block]:
                self._read_block(int(block))
            elif isinstance(self.matrix, np.memmap):
                start = int(block) * self._block_rows
                will_need(self.matrix[start : start + self._block_rows])

    def _place(self, blocks: np.ndarray) -> np.ndarray:
        starts = (blocks * self._block_rows).tolist()
        return np.concatenate([start + np.flatnonzero(self._selected(start)) for start in starts])

    def _pick(self, storage: int, rows: np.ndarray, out: np.ndarray) -> None:
        if self._plain is None:
            out[:] = _dense(self.matrix[rows])
        else:
            pick(self._plain, rows, out)

    @cached_property
    def _plain(self) -> np.ndarray | None:
        """The matrix, if its rows lie in memory as torch takes them."""
        if isinstance(self.matrix, Tensor):
            return to_bits(self.matrix) if self.matrix.is_contiguous() else None
        if sparse.issparse(self.matrix) or not self.matrix.flags.c_contiguous:
            return None
        return np.asarray(self.matrix) if self.matrix.dtype.isnative else None

    def _rows(self, start: int) -> np.ndarray:
        return _dense(self.matrix[start : start + self._block_rows])

    def _selected(self, start: int) -> np.ndarray:
        """Return which rows of the block that starts at `start` are in the split."""
        rows = np.arange(start, min(start + self._block_rows, self.matrix.shape[0]))
        if self._held is None:
            return np.ones(len(rows), dtype=bool)
        return self._held[rows // self._run] == (self.split == "heldout")

    def _held_runs(self, fraction: float) -> np.ndarray:
        """Return whether each run of rows is held out; some is, and some is not."""
        self._run = min(_RUN, max(1, self.matrix.shape[0] // 1000))
        score = held_out_score(np.arange(-(-self.matrix.shape[0] // self._run)))
        if fraction == 0:
            return np.zeros(len(score), dtype=bool)
        if len(score) < 2:
            raise ValueError(
                f"`data` must have at least 2 rows to be split; got {len(score)}. Give more rows, "
                "or train on all of them with heldout_fraction=0."
            )
        held = (score < fraction) | (score == score.min())
        return held & (score != score.max())


def _with_split(source: AbstractSource, split: str, fraction: float) -> AbstractSource:
    if isinstance(source, (Cache, JoinedSource)):
        return source.with_split(split, fraction)
    assert isinstance(source, ArraySource)
    return ArraySource(source.matrix, split=split, heldout_fraction=fraction)


def _folder(
    path: Path, hookpoint: str | None, split: str | None, fraction: float
) -> AbstractSource:
    if not (path / MANIFEST).exists() and not (path / JOURNAL).exists():
        raise FileNotFoundError(
            f"`data` must be the folder of a cache made by `sae.cache.write`, or a .npy file; "
            f"{str(path)!r} is neither."
        )
    first, *others = (None,) if hookpoint is None else hookpoint.split("+")
    cache = open_cache(path, first, split, heldout_fraction=fraction)
    return join([cache, *(cache.at(name) for name in others)]) if others else cache


def _at(cache: Cache, hookpoint: str) -> AbstractSource:
    parts = [cache.at(name) for name in hookpoint.split("+")]
    return join(parts) if len(parts) > 1 else parts[0]


def _matrix(data: Any) -> Any:
    """Return `data` as a floating matrix that `ArraySource` can slice."""
    if isinstance(data, (str, Path)):
        data = _load_npy(Path(data))
    if not _is_matrix(data):
        raise TypeError(
            "`data` must be the folder of a cache, a .npy file, a dense tensor, a numpy array "
            f"without a mask or a scipy sparse matrix; got {_kind(data)}."
        )
    if data.ndim != 2 or 0 in data.shape:
        raise ValueError(
            f"`data` must have shape (rows, n_features), each at least 1; got {tuple(data.shape)}."
        )
    dtype = str(data.dtype).removeprefix("torch.")
    if dtype.lstrip("<>") not in _FLOATS:
        raise TypeError(
            "`data` must be floating (float16, bfloat16, float32 or float64); got dtype "
            f"{dtype}. Convert it to float32 first."
        )
    if isinstance(data, Tensor):
        return data.detach().cpu()
    return data.tocsr() if sparse.issparse(data) else data


def _is_matrix(data: Any) -> bool:
    if isinstance(data, Tensor):
        return data.layout == torch.strided
    dense = isinstance(data, np.ndarray) and not isinstance(data, np.ma.MaskedArray)
    return dense or sparse.issparse(data)


def _kind(data: Any) -> str:
    if isinstance(data, Tensor):
        return f"a tensor of layout {str(data.layout).removeprefix('torch.')}"
    return type(data).__name__


def _load_npy(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        raise ValueError(
            f"`data` must be a .npy file with one array; got {str(path)!r}. Save the array alone."
        )
    if not path.is_file():
        raise FileNotFoundError(f"`data` must exist; there is no file {str(path)!r}.")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        first = str(error).split("\n")[0]
        raise ValueError(
            f"`{path}` must be a complete .npy file of numbers; it is not ({first})."
        ) from None


def _dense(rows: Any) -> np.ndarray:
    """Return rows as torch takes them: dense, contiguous, of the machine's byte order."""
    if isinstance(rows, Tensor):
        return to_bits(rows)
    if sparse.issparse(rows):
        return rows.toarray()
    return np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("="))


def _stored_bytes(matrix: Any) -> int:
    parts = [getattr(matrix, name) for name in _SPARSE] if sparse.issparse(matrix) else [matrix]
    return sum(part.nbytes for part in parts)


def _hash_rows(digest: Any, rows: Any) -> None:
    """Add rows to a digest; of sparse ones what is stored, in one order."""
    if not sparse.issparse(rows):
        digest.update(_dense(rows))
        return
    rows = rows.copy()
    rows.sum_duplicates()
    for name in _SPARSE:
        part = getattr(rows, name)
        digest.update(part if name == "data" else part.astype(np.int64))


def _check_finite(rows: Tensor, first_row: int) -> None:
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        row = first_row + int(bad.nonzero()[0])
        raise ValueError(
            f"`data` must be finite; got NaN or infinity, first in row {row}. Drop or repair those "
            "rows first."
        )
