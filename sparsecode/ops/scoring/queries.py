"""Queries in the one form that scoring takes: finite, dimensions ascending, each once."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from sparsecode.codes import SparseCodes


@dataclass(frozen=True, eq=False)
class Queries:
    """Sparse queries without zeros; query q has the entries ``crow[q]:crow[q + 1]``."""

    values: np.ndarray
    """Weights, (nnz,), float32, finite."""

    dims: np.ndarray
    """Dimensions, (nnz,), int32 or int64, ascending within a query."""

    crow: list[int]
    """Boundaries of the queries, (Q + 1,)."""

    width: int
    """Number of dimensions F."""

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.crow) - 1

    def __getitem__(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the values and the dimensions of one query."""
        own = slice(self.crow[query], self.crow[query + 1])
        return self.values[own], self.dims[own]

    @classmethod
    def from_codes(cls, codes: SparseCodes) -> "Queries":
        """Return the queries of codes of shape (Q, F); NaN and infinity are refused."""
        rows: Any = codes.flatten().to_scipy()
        bad = np.flatnonzero(~np.isfinite(rows.data.astype(np.float32)))
        if bad.size:
            row = int(np.searchsorted(rows.indptr, bad[0], side="right")) - 1
            raise ValueError(
                f"`queries` must be finite in float32; got {rows.data[bad[0]]} in row {row}. "
                "Drop or repair those rows first."
            )
        return cls.from_canonical(rows)

    @classmethod
    def from_canonical(cls, rows: Any) -> "Queries":
        """Return the queries of a canonical CSR matrix without zeros; nothing is checked."""
        values = rows.data.astype(np.float32, copy=False)
        return cls(values, rows.indices, rows.indptr.tolist(), rows.shape[1])

    def heaviest(self, n: int) -> "Queries":
        """Return the n entries of each query with the largest sizes; ties go to the lower one."""
        kept, crow = [], [0]
        for start, stop in pairwise(self.crow):
            order = np.argsort(-np.abs(self.values[start:stop]), kind="stable")[:n]
            kept.append(np.sort(order) + start)
            crow.append(crow[-1] + len(order))
        chosen = np.concatenate([np.empty(0, np.int64), *kept])
        return Queries(self.values[chosen], self.dims[chosen], crow, self.width)
