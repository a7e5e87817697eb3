"""Posting lists as NumPy arrays, and the compiled loops of SciPy that add them up."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from sparsecode.ops.scoring.queries import Queries

try:
    from scipy.sparse._sparsetools import csc_matvec
except (
    ImportError
):  # private to SciPy, and the only compiled scatter-add that reads int32 ids in place
    csc_matvec = None

SMALL = 3 * 2**20
"""Entries up to which a float64 copy is kept, of at most 36 MiB: its sums are exact at once."""
STAND_IN = 1e-250
"""Held instead of a zero in that copy: it changes no score, but leaves a trace in a sum."""
SEARCH_COST = 25
"""How many entries of a list can be added in the time of one look-up."""


class Plan(NamedTuple):
    """Queries as the columns of a matrix whose entries are the lists; see `plan`."""

    pointers: np.ndarray
    """Boundaries of the columns, two for each entry of a query."""

    weights: np.ndarray
    """Weights of the columns, zero for the ones between two lists."""

    bounds: list[int]
    """Boundaries of the queries, half of those in both; they may descend."""


class Lists:
    """The lists of `Postings`, whose documents they name by their rows.

    Parameters
    ----------
    values, documents, offsets, peaks : ndarray
    n_documents : int
    scales : ndarray or None
    """

    def __init__(
        self,
        values: np.ndarray,
        documents: np.ndarray,
        offsets: np.ndarray,
        peaks: np.ndarray,
        n_documents: int,
        scales: np.ndarray | None,
    ) -> None:
        self.values, self.documents, self.offsets = values, documents, offsets
        self.peaks, self.n_documents, self.scales = peaks, n_documents, scales
        self.in_one_call = values.dtype == np.float32 and len(values) < 2**31

    @cached_property
    def backwards(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float64 values and documents of all entries in reverse order."""
        values = self.values[::-1].astype(np.float64)
        values[values == 0] = STAND_IN
        return values, self.documents[::-1].copy()

    @cached_property
    def pairs(self) -> np.ndarray:
        """Start and end of each list, (F, 2), int32."""
        return np.stack([self.offsets[:-1], self.offsets[1:]], axis=1).astype(np.int32)

    @cached_property
    def backward_pairs(self) -> np.ndarray:
        """The same in `backwards`."""
        return len(self.values) - self.pairs[:, ::-1]

    def plan(self, queries: Queries, kind: type) -> Plan:
        """Return pointers with which one compiled call adds all lists of a query.

        The columns of a CSC matrix lie between neighbors in its pointers. Lists are taken in
        descending order of their places, so the column between the end of one and the start of the
        next has no entries, and nothing needs to be copied. With float64 the places are those of
        `backwards`: dimensions ascend as in the reference, and so sums have its bits.
        """
        weights = np.zeros(2 * len(queries.dims), kind)
        if kind is np.float64:
            weights[::2] = queries.values
            return Plan(self.backward_pairs.take(queries.dims, 0).ravel(), weights, queries.crow)
        weights[::2] = queries.values[::-1]
        bounds = [len(queries.dims) - place for place in queries.crow]
        return Plan(self.pairs.take(queries.dims[::-1], 0).ravel(), weights, bounds)

    def add_all(self, plan: Plan, query: int, total: np.ndarray) -> None:
        """Add the scores of one query to `total`, in its precision, without the scales."""
        assert csc_matvec is not None  # `supports` has said so
        values, documents = (
            self.backwards if total.dtype == np.float64 else (self.values, self.documents)
        )
        low, high = plan.bounds[query], plan.bounds[query + 1]
        own = slice(2 * low, 2 * high) if low < high else slice(2 * high, 2 * low)
        if low != high:
            n_columns, n_rows = own.stop - own.start - 1, self.n_documents
            pointers, weights = plan.pointers[own], plan.weights[own]
            csc_matvec(n_rows, n_columns, pointers, documents, values, weights, total)

    def add(self, values: np.ndarray, dims: np.ndarray, total: np.ndarray) -> None:
        """Add the same list by list, which are converted if they are of another type."""
        assert csc_matvec is not None
        pointers, weight = np.zeros(2, np.int32), np.zeros(1, total.dtype)
        for dim, value in zip(dims, values, strict=True):
            own = slice(self.offsets[dim], self.offsets[dim + 1])
            pointers[1], weight[0] = own.stop - own.start, value
            if pointers[1]:
                entries = self.values[own].astype(total.dtype, copy=False)
                ids = self.documents[own]
                csc_matvec(self.n_documents, 1, pointers, ids, entries, weight, total)

    def exact(self, values: np.ndarray, dims: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return scores of rows in float32, the bits of the reference; -inf without a match."""
        if not len(self.documents) or not len(rows):
            return np.full(len(rows), -np.inf, np.float32)
        n_reads = (self.offsets[dims + 1] - self.offsets[dims]).sum()
        score = self._all if SEARCH_COST * len(rows) * len(dims) > n_reads else self._some
        total, matched = score(values.astype(np.float64), dims, rows)
        if self.scales is not None:
            total *= self.scales[rows].astype(np.float64)
        with np.errstate(over="ignore"):  # a score beyond float32 is infinite
            return np.where(matched, total, -np.inf).astype(np.float32)

    def _some(
        self, values: np.ndarray, dims: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Look the rows up in each list; return float64 sums and whether there was a match."""
        wanted = rows.astype(np.int32)
        starts, stops = self.offsets[dims], self.offsets[dims + 1]
        places = np.empty((len(dims), len(rows)), np.int64)
        for line, start, stop in zip(places, starts.tolist(), stops.tolist(), strict=True):
            line[:] = self.documents[start:stop].searchsorted(wanted)
        places += starts[:, None]
        found = places < stops[:, None]
        places = np.minimum(places, len(self.documents) - 1)
        found &= self.documents[places] == wanted
        products = np.where(found, self.values[places] * values[:, None], 0.0)
        return products.cumsum(axis=0)[-1], found.any(axis=0)  # in order, as the reference adds

    def _all(
        self, values: np.ndarray, dims: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same from the sums of all documents."""
        total = np.zeros(self.n_documents)
        self.add(values, dims, total)
        return total[rows], self._seen(dims)[rows]

    def matched(self, dims: np.ndarray) -> np.ndarray:
        """Return the rows that share a dimension with the query, ascending."""
        return np.flatnonzero(self._seen(dims))

    def _seen(self, dims: np.ndarray) -> np.ndarray:
        seen = np.zeros(self.n_documents, bool)
        for dim in dims:
            seen[self.documents[self.offsets[dim] : self.offsets[dim + 1]]] = True
        return seen
