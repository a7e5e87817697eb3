"""SparseCodes: the one type that encoders return and that decoders, metrics and indexes take."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sparsecode._checks import as_tensor, check_int


class SparseCodes:
    """Rows of a wide matrix of which only a few entries are held.

    Two layouts share all methods. *Fixed-k* rows hold K entries each; *ragged* rows hold any
    number, one after the other, with row boundaries as in CSR. No (N, F) matrix is made unless
    `to_dense` is called. An entry of value 0 is padding: it is held but not active. Entries
    that repeat an index add up.

    Parameters
    ----------
    values : Tensor of shape (..., K), or (nnz,) with `crow`
        Floating (or integer) entries.
    indices : Tensor, same shape as `values`
        Integer latent ids in [0, width).
    width : int
        Number of latents F.
    crow : Tensor of shape (N + 1,) or None, default=None
        Row boundaries of ragged rows: row n holds entries ``crow[n]:crow[n + 1]``.
    batch_shape : sequence of int or None, default=None
        Leading shape of ragged rows, with product N. None means (N,).

    Raises
    ------
    TypeError
        If `indices` is not an integer tensor.
    ValueError
        If shapes disagree or an index is out of range.

    Examples
    --------
    >>> values, ids = torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([[4, 0], [1, 2]])
    >>> codes = SparseCodes(values, ids, 5)
    >>> codes
    SparseCodes(shape=(2, 5), layout=fixed-k, entries=4, dtype=float32, device=cpu)
    >>> codes.n_active
    tensor([2, 1])
    >>> codes.truncate(1).to_dense()
    tensor([[0., 0., 0., 0., 2.],
            [0., 3., 0., 0., 0.]])
    """

    __slots__ = ("_batch_shape", "crow", "indices", "values", "width")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        values: Tensor,
        indices: Tensor,
        width: int,
        *,
        crow: Tensor | None = None,
        batch_shape: Sequence[int] | None = None,
    ) -> None:
        self.width = check_int("width", width, low=0)
        values, indices, crow = as_tensor(values), as_tensor(indices), as_tensor(crow)
        _check_entries(values, indices, self.width)
        self.values = values
        self.indices = indices.long()
        self.crow = None if crow is None else _checked_crow(crow, values)
        if self.crow is None:
            if batch_shape is not None and tuple(batch_shape) != tuple(values.shape[:-1]):
                raise ValueError(
                    f"`batch_shape` must equal values.shape[:-1] = {tuple(values.shape[:-1])}; "
                    f"got {tuple(batch_shape)}."
                )
            self._batch_shape = tuple(values.shape[:-1])
        else:
            n_rows = self.crow.numel() - 1
            self._batch_shape = (n_rows,) if batch_shape is None else tuple(batch_shape)
            if math.prod(self._batch_shape) != n_rows:
                raise ValueError(f"`batch_shape` must hold {n_rows} rows; got {self._batch_shape}.")

    @classmethod
    def _trusted(
        cls,
        values: Tensor,
        indices: Tensor,
        width: int,
        crow: Tensor | None = None,
        batch_shape: Sequence[int] | None = None,
    ) -> "SparseCodes":
        """Build from parts that the library made itself: nothing is checked, nothing is read."""
        codes = object.__new__(cls)
        codes.values, codes.indices, codes.width, codes.crow = values, indices, width, crow
        if crow is None:
            codes._batch_shape = tuple(values.shape[:-1])
        else:
            codes._batch_shape = (crow.numel() - 1,) if batch_shape is None else tuple(batch_shape)
        return codes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the dense matrix, (..., F)."""
        return (*self._batch_shape, self.width)

    @property
    def n_rows(self) -> int:
        """Number of rows N, over all leading axes."""
        return math.prod(self._batch_shape)

    @property
    def is_ragged(self) -> bool:
        """Whether rows may hold different numbers of entries."""
        return self.crow is not None

    @property
    def n_active(self) -> Tensor:
        """Number of non-zero entries of each row, int64 of shape (...)."""
        active = self.values != 0
        if self.crow is None:
            return active.sum(-1)
        running = torch.cat([active.new_zeros(1, dtype=torch.long), active.cumsum(0)])
        return running[self.crow].diff().reshape(self._batch_shape)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self.values.device

    def row_ids(self) -> Tensor:
        """Return the row of each entry, int64, same shape as `values` (leading axes flattened)."""
        rows = torch.arange(self.n_rows, device=self.device)
        if self.crow is None:
            return rows.reshape(*self._batch_shape, 1).expand_as(self.values)
        return rows.repeat_interleave(self.crow.diff(), output_size=self.values.numel())

    def to_dense(self) -> Tensor:
        """Return the dense matrix of shape (..., F); differentiable in the values."""
        rows = self.row_ids().reshape(-1)
        dense = self.values.new_zeros(self.n_rows, self.width)
        dense = dense.index_put(
            (rows, self.indices.reshape(-1)), self.values.reshape(-1), accumulate=True
        )
        return dense.reshape(self.shape)

    def to_scipy(self) -> scipy.sparse.csr_matrix:
        """Return a canonical `scipy.sparse.csr_matrix` of shape (N, F).

        Padding is left out, repeated entries are added, ids ascend within a row. bfloat16 and
        float16 become float32, since SciPy has neither.
        """
        half = self.dtype in (torch.bfloat16, torch.float16)
        values = (
            self.values.detach()
            .to("cpu", torch.float32 if half else self.dtype)
            .reshape(-1)
            .numpy()
        )
        indices = self.indices.cpu().reshape(-1).numpy()
        if self.crow is None:
            per_row = self.values.shape[-1]
            crow = np.arange(self.n_rows + 1, dtype=np.int64) * per_row
        else:
            crow = self.crow.cpu().numpy()
        small = max(self.width, len(values)) < 2**31
        kind = np.int32 if small else np.int64
        matrix = scipy.sparse.csr_matrix(
            (values, indices.astype(kind), crow.astype(kind)),
            shape=(self.n_rows, self.width),
            copy=True,
        )
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix

    @classmethod
    def from_scipy(cls, matrix: Any, *, device: str | torch.device = "cpu") -> "SparseCodes":
        """Return ragged codes holding the stored entries of any SciPy sparse matrix."""
        if not scipy.sparse.issparse(matrix):
            raise TypeError(f"`matrix` must be a SciPy sparse matrix; got {type(matrix).__name__}.")
        csr = matrix.tocsr()
        if csr.ndim != 2:
            raise ValueError(f"`matrix` must have two axes; got shape {csr.shape}.")
        values = torch.from_numpy(np.array(csr.data))
        indices = torch.from_numpy(csr.indices.astype(np.int64))
        crow = torch.from_numpy(csr.indptr.astype(np.int64))
        return cls(values.to(device), indices.to(device), csr.shape[1], crow=crow.to(device))

    def to(self, *args: Any, **kwargs: Any) -> "SparseCodes":
        """Move or convert the values as `Tensor.to` does; the indices only change device."""
        values = self.values.to(*args, **kwargs)
        crow = None if self.crow is None else self.crow.to(values.device)
        return self._trusted(
            values, self.indices.to(values.device), self.width, crow, self._batch_shape
        )

    def detach(self) -> "SparseCodes":
        """Return the same codes with values cut from the autograd graph."""
        return self._trusted(
            self.values.detach(), self.indices, self.width, self.crow, self._batch_shape
        )

    def with_values(self, values: Tensor) -> "SparseCodes":
        """Return codes with the same support and other values of the same shape."""
        if values.shape != self.values.shape:
            raise ValueError(
                f"`values` must have shape {tuple(self.values.shape)}; got {tuple(values.shape)}."
            )
        return self._trusted(values, self.indices, self.width, self.crow, self._batch_shape)

    def flatten(self) -> "SparseCodes":
        """Return the rows of all leading axes as one axis: shape (N, F)."""
        return self.reshape(self.n_rows)

    def reshape(self, *batch_shape: int) -> "SparseCodes":
        """Return the same rows under other leading axes."""
        if math.prod(batch_shape) != self.n_rows:
            raise ValueError(f"`batch_shape` must hold {self.n_rows} rows; got {batch_shape}.")
        if self.crow is not None:
            return self._trusted(self.values, self.indices, self.width, self.crow, batch_shape)
        last = self.values.shape[-1]
        values, indices = (
            self.values.reshape(*batch_shape, last),
            self.indices.reshape(*batch_shape, last),
        )
        return self._trusted(values, indices, self.width)

    def to_ragged(self) -> "SparseCodes":
        """Return ragged rows without padding, entries in their present order."""
        keep = self.values != 0
        crow = torch.nn.functional.pad(self.n_active.reshape(-1).cumsum(0), (1, 0))
        return self._trusted(
            self.values[keep], self.indices[keep], self.width, crow, self._batch_shape
        )

    def to_fixed(self) -> "SparseCodes":
        """Return fixed-k rows, padded with zeros at latent 0 to the longest row."""
        if self.crow is None:
            return self
        lengths = self.crow.diff()
        longest = int(lengths.max()) if lengths.numel() else 0
        rows = self.row_ids()
        places = torch.arange(self.values.numel(), device=self.device) - self.crow[rows]
        values = self.values.new_zeros(self.n_rows, longest).index_put((rows, places), self.values)
        indices = self.indices.new_zeros(self.n_rows, longest).index_put(
            (rows, places), self.indices
        )
        return self._trusted(values, indices, self.width).reshape(*self._batch_shape)

    def truncate(self, k: int) -> "SparseCodes":
        """Keep the `k` largest active entries of each row, in descending order.

        Larger value first, ties to the lower latent id; padding comes last. Rows with
        fewer entries are kept whole.
        """
        k = check_int("k", k, low=0)
        if self.crow is None:
            order = self._descending()
            picked = order[..., :k]
            return self._trusted(
                self.values.gather(-1, picked), self.indices.gather(-1, picked), self.width
            )
        order = self._descending()
        rows = self.row_ids()  # sorted by row before and after the reordering within rows
        places = torch.arange(rows.numel(), device=self.device) - self.crow[rows]
        keep = order[places < k]
        crow = torch.nn.functional.pad(self.crow.diff().clamp(max=k).cumsum(0), (1, 0))
        return self._trusted(
            self.values[keep], self.indices[keep], self.width, crow, self._batch_shape
        )

    def __getitem__(self, rows: Any) -> "SparseCodes":
        """Select rows, by int, slice, mask or ids, as a tensor of shape ``shape[:-1]`` would."""
        if isinstance(rows, np.ndarray):
            kind = bool if rows.dtype == bool else np.int64
            rows = torch.from_numpy(np.array(rows, dtype=kind)).to(self.device)
        if self.crow is None:
            if isinstance(rows, tuple) and len(rows) > len(self._batch_shape):
                raise IndexError(
                    f"`rows` must index the {len(self._batch_shape)} leading axes; "
                    f"got {len(rows)} indices."
                )
            if not self._batch_shape:
                raise IndexError("`rows` must index a leading axis; got codes of a single row.")
            return self._trusted(self.values[rows], self.indices[rows], self.width)
        picked = torch.arange(self.n_rows, device=self.device).reshape(self._batch_shape)[rows]
        flat = picked.reshape(-1)
        lengths = self.crow.diff()[flat]
        crow = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        total = int(crow[-1])
        shift = (self.crow[flat] - crow[:-1]).repeat_interleave(lengths, output_size=total)
        entries = torch.arange(total, device=self.device) + shift
        return self._trusted(
            self.values[entries], self.indices[entries], self.width, crow, tuple(picked.shape)
        )

    def __len__(self) -> int:
        """Return the length of the first leading axis."""
        if not self._batch_shape:
            raise TypeError("`len` needs codes with a leading axis; got a single row.")
        return self._batch_shape[0]

    @classmethod
    def cat(cls, parts: Sequence["SparseCodes"]) -> "SparseCodes":
        """Concatenate along the first leading axis.

        Fixed-k parts stay fixed-k, padded to the largest K; with any ragged part all become ragged.
        """
        if not parts:
            raise ValueError("`parts` must hold at least one SparseCodes; got none.")
        widths = {part.width for part in parts}
        inner = {part.shape[1:-1] for part in parts}
        if len(widths) > 1 or len(inner) > 1 or any(len(part.shape) < 2 for part in parts):
            raise ValueError(
                f"`parts` must agree in all but the first axis; "
                f"got shapes {[part.shape for part in parts]}."
            )
        width = parts[0].width
        if all(part.crow is None for part in parts):
            longest = max(part.values.shape[-1] for part in parts)
            pads = [(0, longest - part.values.shape[-1]) for part in parts]
            values = [
                torch.nn.functional.pad(part.values, pad)
                for part, pad in zip(parts, pads, strict=True)
            ]
            indices = [
                torch.nn.functional.pad(part.indices, pad)
                for part, pad in zip(parts, pads, strict=True)
            ]
            return cls._trusted(torch.cat(values), torch.cat(indices), width)
        ragged = [part if part.crow is not None else part.to_ragged() for part in parts]
        lengths = torch.cat([part.crow.diff() for part in ragged if part.crow is not None])
        crow = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        batch_shape = (sum(len(part) for part in parts), *parts[0].shape[1:-1])
        values, indices = (
            torch.cat([p.values for p in ragged]),
            torch.cat([p.indices for p in ragged]),
        )
        return cls._trusted(values, indices, width, crow, batch_shape)

    def __eq__(self, other: object) -> bool:
        """Whether both stand for the same matrix: equal shape, dtype and non-zero entries.

        The layout, the order of entries and padding do not matter. NaN equals NaN.
        """
        if not isinstance(other, SparseCodes):
            return NotImplemented
        if self.shape != other.shape or self.dtype != other.dtype:
            return False
        mine, theirs = self.to_scipy(), other.to_scipy()
        same_support = np.array_equal(mine.indptr, theirs.indptr) and np.array_equal(
            mine.indices, theirs.indices
        )
        return bool(
            same_support
            and np.array_equal(mine.data, theirs.data, equal_nan=mine.data.dtype.kind == "f")
        )

    def __repr__(self) -> str:
        layout = "ragged" if self.is_ragged else "fixed-k"
        kind = str(self.dtype).removeprefix("torch.")
        return (
            f"SparseCodes(shape={self.shape}, layout={layout}, entries={self.values.numel()}, "
            f"dtype={kind}, device={self.device})"
        )

    def _descending(self) -> Tensor:
        """Order of the entries within each row: active first, larger first, lower id first."""
        values = self.values.detach()
        key = (
            values.float()
            .masked_fill(values == 0, -math.inf)
            .nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        )
        padding = values == 0
        if self.crow is None:
            order = self.indices.argsort(dim=-1, stable=True)
            order = order.gather(
                -1, key.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
            )
            return order.gather(
                -1, padding.gather(-1, order).to(torch.uint8).argsort(dim=-1, stable=True)
            )
        order = self.indices.argsort(stable=True)
        order = order[key[order].argsort(descending=True, stable=True)]
        order = order[padding[order].to(torch.uint8).argsort(stable=True)]
        return order[self.row_ids()[order].argsort(stable=True)]


def _check_entries(values: Tensor, indices: Tensor, width: int) -> None:
    if not isinstance(values, Tensor) or not isinstance(indices, Tensor):
        raise TypeError(
            f"`values` and `indices` must be tensors; "
            f"got {type(values).__name__} and {type(indices).__name__}."
        )
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(
            f"`indices` must be an integer tensor; "
            f"got dtype {str(indices.dtype).removeprefix('torch.')}."
        )
    if values.shape != indices.shape or values.ndim == 0:
        raise ValueError(
            f"`values` and `indices` must have the same shape (..., K); "
            f"got {tuple(values.shape)} and {tuple(indices.shape)}."
        )
    if values.device != indices.device:
        raise ValueError(
            f"`indices` must be on the device of `values` ({values.device}); got {indices.device}."
        )
    if not torch.compiler.is_compiling() and indices.numel():  # a graph has no numbers
        low, high = (int(bound) for bound in torch.aminmax(indices))
        if low < 0 or high >= width:
            raise ValueError(
                f"`indices` must lie in [0, width) = [0, {width}); got values from {low} to {high}."
            )


def _checked_crow(crow: Tensor, values: Tensor) -> Tensor:
    if values.ndim != 1:
        raise ValueError(
            f"`values` must have shape (nnz,) when `crow` is given; got {tuple(values.shape)}."
        )
    crow = crow.long()
    rises = crow.ndim == 1 and crow.numel() >= 1 and bool((crow.diff() >= 0).all())
    if not rises or int(crow[0]) != 0 or int(crow[-1]) != values.numel():
        raise ValueError(
            f"`crow` must rise from 0 to nnz = {values.numel()}; got {crow.tolist()[:8]}."
        )
    return crow
