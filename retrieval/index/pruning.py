"""Pruning: leave the small weights of a row out, before it is indexed or searched for."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse

from sparsecode._checks import check_float, check_int


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Which entries of a row stay; with several rules, those that all of them keep.

    Sizes are absolute values. Kept values stay as they are, so scores become smaller.

    Examples
    --------
    >>> row = scipy.sparse.csr_matrix([[4.0, 3.0, 2.0, 1.0]])
    >>> Pruning(k=2).apply(row).toarray()
    array([[4., 3., 0., 0.]])
    >>> Pruning(mass=0.85).apply(row).toarray()
    array([[4., 3., 2., 0.]])
    """

    k: int | None = None
    """Keep the k largest of each row; ties go to the lower dimension."""

    mass: float | None = None
    """Keep the fewest of the largest whose sizes add up to this share of the row's sum."""

    ratio: float | None = None
    """Keep what is at least this share of the largest of the row."""

    threshold: float | None = None
    """Keep what is at least this size."""

    def __post_init__(self) -> None:
        """Check the rules."""
        if self.k is not None:
            check_int("k", self.k, low=1)
        for name in ("mass", "ratio"):
            if getattr(self, name) is not None:
                check_float(name, getattr(self, name), low=0, high=1, open_low=True)
        if self.threshold is not None:
            check_float("threshold", self.threshold, low=0)

    def config(self) -> dict[str, Any]:
        """Return the rules as JSON holds them."""
        return asdict(self)

    def apply(self, rows: Any) -> scipy.sparse.csr_matrix:
        """Return a canonical CSR matrix with the entries that stay.

        Parameters
        ----------
        rows : scipy sparse matrix of shape (N, F)

        Returns
        -------
        csr_matrix
        """
        rows = scipy.sparse.csr_matrix(rows, copy=True)
        rows.sum_duplicates()
        sizes, lengths = np.abs(rows.data), np.diff(rows.indptr)
        row_of = np.repeat(np.arange(rows.shape[0]), lengths)
        order = np.lexsort((rows.indices, -sizes, row_of))  # within rows: larger first
        starts = np.repeat(rows.indptr[:-1], lengths)
        ranked = sizes[order].astype(np.float64)
        keep = np.ones(len(order), bool)
        if self.k is not None:
            keep &= np.arange(len(order)) - starts < self.k
        if self.ratio is not None and len(order):
            keep &= ranked >= self.ratio * ranked[starts]
        if self.threshold is not None:
            keep &= ranked >= self.threshold
        if self.mass is not None:
            before, total = _running(ranked, rows.indptr)
            keep &= before < self.mass * total
        dropped = order[~keep]
        rows.data[dropped] = 0
        rows.eliminate_zeros()
        return rows


def _running(ranked: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each entry the sum of the entries of its row before it, and of the whole row."""
    before, total = np.zeros_like(ranked), np.zeros_like(ranked)
    for start, stop in pairwise(indptr):
        if start < stop:
            sums = ranked[start:stop].cumsum()
            before[start + 1 : stop], total[start:stop] = sums[:-1], sums[-1]
    return before, total
