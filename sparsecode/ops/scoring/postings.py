"""Postings: documents turned on their side, one list of documents for each dimension."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sparsecode._checks import check_choice
from sparsecode.codes import SparseCodes
from sparsecode.ops.scoring.lists import Lists

DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
LARGEST_CODE = 255


@dataclass(frozen=True, eq=False)
class Postings:
    """Sparse documents by dimension, as search needs them.

    Dimension j has the entries ``offsets[j]:offsets[j + 1]``. Documents ascend within a list, each
    at most once.
    """

    values: Tensor
    """Of all entries, (nnz,): float32, float16, or uint8 with `scales`."""

    documents: Tensor
    """Row of each entry, (nnz,), int32."""

    offsets: Tensor
    """Boundaries of the lists, (F + 1,), int64."""

    peaks: Tensor
    """Largest absolute weight of each list, (F,), float32; 0 for an empty one."""

    n_documents: int
    """Number of rows, those without an entry included."""

    scales: Tensor | None = None
    """What a uint8 value is multiplied by, one float32 for each document, (n_documents,)."""

    @property
    def width(self) -> int:
        """Number of dimensions F."""
        return self.offsets.numel() - 1

    @property
    def device(self) -> torch.device:
        """Device of all parts."""
        return self.values.device

    @property
    def dtype(self) -> str:
        """How values are held: "float32", "float16" or "uint8"."""
        return str(self.values.dtype).removeprefix("torch.")

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        parts = [self.values, self.documents, self.offsets, self.peaks]
        return sum(
            part.nbytes for part in [*parts, *([] if self.scales is None else [self.scales])]
        )

    @cached_property
    def lists(self) -> Lists:
        """The same as NumPy arrays, on the CPU, with what makes further searches fast."""
        scales = None if self.scales is None else self.scales.numpy()
        return Lists(
            values=self.values.numpy(),
            documents=self.documents.numpy(),
            offsets=self.offsets.numpy(),
            peaks=self.peaks.numpy(),
            n_documents=self.n_documents,
            scales=scales,
        )

    @classmethod
    def from_codes(cls, codes: SparseCodes, dtype: str = "float32") -> "Postings":
        """Return the postings of documents; zeros are left out.

        Parameters
        ----------
        codes : SparseCodes of shape (N, F)
            Finite. Repeated entries are added. On the CPU or moved there.
        dtype : {"float32", "float16", "uint8"}, default="float32"
            How values are held. float16 rounds each to a relative error of at most 2^-11 (or an
            absolute one of 2^-25). uint8 holds multiples of ``s = max / 255``, where max is the
            largest value of that document: the error of a value is at most ``s / 2``, that of a
            score ``sum |q| * s / 2``; values must not be negative.

        Returns
        -------
        Postings

        Raises
        ------
        ValueError
            If a value is NaN, infinite or not representable.

        Examples
        --------
        >>> values, ids = torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([[4, 0], [4, 2]])
        >>> codes = SparseCodes(values, ids, 5)
        >>> Postings.from_codes(codes).offsets
        tensor([0, 1, 1, 1, 1, 3])
        """
        return cls.from_scipy(codes.flatten().to_scipy(), dtype)

    @classmethod
    def from_scipy(cls, matrix: Any, dtype: str = "float32") -> "Postings":
        """Return the postings of a canonical CSR matrix, as `from_codes` does."""
        check_choice("dtype", dtype, tuple(DTYPES))
        rows: Any = matrix.astype(np.float32, copy=False)
        scales = None
        _check_finite(rows)
        if dtype == "float16":
            rows = _with_data(rows, _halves(rows))
        elif dtype == "uint8":
            data, scales = _codes(rows)
            rows = _with_data(rows, data)
        return cls.from_stored(rows, dtype, scales)

    @classmethod
    def from_stored(cls, rows: Any, dtype: str, scales: np.ndarray | None = None) -> "Postings":
        """Return the postings of a canonical CSR matrix whose float32 data are what is held."""
        columns: Any = rows.astype(np.float32, copy=False).tocsc()
        weights = columns.data if scales is None else columns.data * scales[columns.indices]
        values = torch.from_numpy(columns.data).to(DTYPES[dtype])
        return cls(
            values=values,
            documents=torch.from_numpy(columns.indices.astype(np.int32, copy=False)),
            offsets=torch.from_numpy(columns.indptr.astype(np.int64, copy=False)),
            peaks=torch.from_numpy(_peaks(np.abs(weights), columns.indptr)),
            n_documents=rows.shape[0],
            scales=None if scales is None else torch.from_numpy(scales),
        )

    def stored_rows(self) -> scipy.sparse.csr_matrix:
        """Return what is held, by document: the argument of `from_stored`, as float32."""
        shape = (self.n_documents, self.width)
        values = self.values.float().cpu().numpy()
        parts = (values, self.documents.cpu().numpy(), self.offsets.cpu().numpy())
        rows: Any = scipy.sparse.csc_matrix(parts, shape=shape).tocsr()
        rows.sort_indices()
        return rows

    def to_scipy(self) -> scipy.sparse.csr_matrix:
        """Return the documents that scores are computed with, canonical, float32.

        For uint8 each value is its code times the scale of the document, rounded to float32.
        """
        rows = self.stored_rows()
        if self.scales is not None:
            rows.data *= np.repeat(self.scales.cpu().numpy(), np.diff(rows.indptr))
        return rows

    def to(self, device: str | torch.device) -> "Postings":
        """Return the same postings on another device."""
        scales = None if self.scales is None else self.scales.to(device)
        values, documents = self.values.to(device), self.documents.to(device)
        offsets, peaks = self.offsets.to(device), self.peaks.to(device)
        return Postings(values, documents, offsets, peaks, self.n_documents, scales)


def _with_data(rows: Any, data: np.ndarray) -> Any:
    return scipy.sparse.csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape)


def _check_finite(rows: Any) -> None:
    bad = np.flatnonzero(~np.isfinite(rows.data))
    if bad.size:
        row = int(np.searchsorted(rows.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"`codes` must be finite in float32; got {rows.data[bad[0]]} in row {row}. "
            "Drop or repair those rows first."
        )


def _halves(rows: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        halves = rows.data.astype(np.float16)
    if not np.isfinite(halves).all():
        largest = np.abs(rows.data).max()
        raise ValueError(
            f"`codes` must be at most 65504 in absolute value to be held as float16; "
            f"got {largest:g}. Use float32, or rescale them."
        )
    return halves.astype(np.float32)


def _codes(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return integer codes (as float32) and the scale of each row."""
    if rows.nnz and rows.data.min() < 0:
        raise ValueError(
            f"`codes` must not be negative to be held as uint8; got {rows.data.min():g}. "
            "Use float32 or float16."
        )
    lengths = np.diff(rows.indptr)
    largest = np.zeros(rows.shape[0], dtype=np.float32)
    held = lengths > 0
    if held.any():
        largest[held] = np.maximum.reduceat(rows.data, rows.indptr[:-1][held])
    scales = largest.astype(np.float64) / LARGEST_CODE
    per_entry = np.repeat(np.maximum(scales, np.finfo(np.float64).tiny), lengths)
    codes = np.rint(rows.data / per_entry)
    return np.clip(codes, 0, LARGEST_CODE).astype(np.float32), scales.astype(np.float32)


def _peaks(weights: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    peaks = np.zeros(len(indptr) - 1, dtype=np.float32)
    held = np.diff(indptr) > 0
    if held.any():
        peaks[held] = np.maximum.reduceat(weights, indptr[:-1][held])
    return peaks
