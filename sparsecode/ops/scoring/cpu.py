"""Scoring on the CPU: float32 sums over all documents, then exact scores of those near the top.

The first pass adds each list of the query to a buffer of all documents, and bounds its rounding.
Every document that could be among the first k within that bound is scored again in float64, in the
order that the reference has; so results are equal to the reference bit for bit.
"""

import numpy as np
from torch import Tensor

from sparsecode.ops.scoring.postings import Postings

try:
    from scipy.sparse._sparsetools import csc_matvec
except (
    ImportError
):  # private to SciPy, and the only compiled scatter-add that reads int32 ids in place
    csc_matvec = None

BLOCK = 64
UNIT = 2.0**-24
SEARCH_COST = 16
"""How many entries of a list can be read in the time of one look-up."""


def supports(postings: Postings) -> str | None:
    """Return the objection to the fast path, or None."""
    if csc_matvec is None:
        return "this SciPy has no csc_matvec"
    if postings.device.type != "cpu":
        return f"postings on {postings.device}"
    return None


class Lists:
    """The posting lists as NumPy views of the tensors."""

    def __init__(self, postings: Postings) -> None:
        self.values = postings.values.numpy()
        self.documents = postings.documents.numpy()
        self.offsets = postings.offsets.numpy()
        self.peaks = postings.peaks.numpy()
        self.scales = None if postings.scales is None else postings.scales.numpy()
        self.n_documents = postings.n_documents

    def add(self, values: np.ndarray, dims: np.ndarray, total: np.ndarray) -> None:
        """Add the scores of a query to `total`, in float32, without the scales."""
        assert csc_matvec is not None  # `supports` has said so
        pointers, weight = np.zeros(2, np.int32), np.zeros(1, np.float32)
        for dim, value in zip(dims, values, strict=True):
            start, stop = self.offsets[dim], self.offsets[dim + 1]
            if start == stop:
                continue
            pointers[1], weight[0] = stop - start, value
            entries = self.values[start:stop].astype(np.float32, copy=False)
            ids = self.documents[start:stop]
            csc_matvec(self.n_documents, 1, pointers, ids, entries, weight, total)

    def exact(self, values: np.ndarray, dims: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return scores of rows in float32, the bits of the reference; -inf without a match."""
        if not len(self.documents):
            return np.full(len(rows), -np.inf, np.float32)
        many = (
            SEARCH_COST * len(rows) * len(dims)
            > (self.offsets[dims + 1] - self.offsets[dims]).sum()
        )
        total, matched = (self._all if many else self._some)(values.astype(np.float64), dims, rows)
        if self.scales is not None:
            total *= self.scales[rows].astype(np.float64)
        with np.errstate(over="ignore"):  # a score beyond float32 is infinite
            return np.where(matched, total, -np.inf).astype(np.float32)

    def _some(
        self, values: np.ndarray, dims: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Look the rows up in each list; return float64 sums and whether there was a match."""
        low, stop = self.offsets[dims][:, None], self.offsets[dims + 1][:, None]
        wanted = rows.astype(np.int32)
        low, high = (np.repeat(edge, len(rows), axis=1) for edge in (low, stop))
        last = len(self.documents) - 1
        for _ in range(int((high - low).max(initial=0)).bit_length()):  # bisection of all at once
            middle = (low + high) >> 1
            after = self.documents[np.minimum(middle, last)] < wanted
            after &= low < high
            low, high = np.where(after, middle + 1, low), np.where(after, high, middle)
        place = np.minimum(low, last)
        found = (low < stop) & (self.documents[place] == wanted)
        products = np.where(found, self.values[place] * values[:, None], 0.0)
        total = np.zeros(len(rows))
        for row in products:  # one after the other, as the reference adds them
            total += row
        return total, found.any(axis=0)

    def _all(
        self, values: np.ndarray, dims: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same from the sums of all documents."""
        total, matched = np.zeros(self.n_documents), np.zeros(self.n_documents, bool)
        for dim, value in zip(dims, values, strict=True):
            own = slice(self.offsets[dim], self.offsets[dim + 1])
            total[self.documents[own]] += value * self.values[own].astype(np.float64)
            matched[self.documents[own]] = True
        return total[rows], matched[rows]

    def matched(self, dims: np.ndarray) -> np.ndarray:
        """Return the rows that share a dimension with the query, ascending."""
        seen = np.zeros(self.n_documents, bool)
        for dim in dims:
            seen[self.documents[self.offsets[dim] : self.offsets[dim + 1]]] = True
        return np.flatnonzero(seen)


def score_topk(
    values: Tensor, dims: Tensor, crow: list[int], postings: Postings, k: int, mask: Tensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest scores, float32 (Q, k), and their rows, int64, of canonical queries."""
    lists, blocked = Lists(postings), None if mask is None else ~mask.numpy()
    n_queries = len(crow) - 1
    scores = np.full((n_queries, k), -np.inf, np.float32)
    rows = np.full((n_queries, k), -1, np.int64)
    total = np.empty(postings.n_documents, np.float32)
    all_values, all_dims = values.numpy(), dims.numpy()
    for query in range(n_queries):
        own = slice(crow[query], crow[query + 1])
        near = _near_the_top(all_values[own], all_dims[own], lists, k, blocked, total)
        exact = lists.exact(all_values[own], all_dims[own], near)
        order = np.argsort(-exact, kind="stable")[:k]  # near ascends: ties go to the lower row
        order = order[exact[order] > -np.inf]
        scores[query, : len(order)], rows[query, : len(order)] = exact[order], near[order]
    return scores, rows


def score_rows(
    values: Tensor, dims: Tensor, crow: list[int], postings: Postings, rows: Tensor
) -> np.ndarray:
    """Return the scores of given rows, float32 (Q, C); -inf where there is no match or row."""
    lists, all_values, all_dims = Lists(postings), values.numpy(), dims.numpy()
    scores = np.full(tuple(rows.shape), -np.inf, np.float32)
    for query, wanted in enumerate(rows.numpy()):
        own, real = slice(crow[query], crow[query + 1]), wanted >= 0
        scores[query, real] = lists.exact(all_values[own], all_dims[own], wanted[real])
    return scores


def _near_the_top(
    values: np.ndarray,
    dims: np.ndarray,
    lists: Lists,
    k: int,
    blocked: np.ndarray | None,
    total: np.ndarray,
) -> np.ndarray:
    """Return ascending rows that hold the first k whatever the rounding of the first pass did."""
    if not k or not len(dims):
        return np.empty(0, np.int64)
    total.fill(0)
    lists.add(values, dims, total)
    if lists.scales is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            total *= lists.scales
    if blocked is not None:
        np.putmask(total, blocked, -np.inf)
    bound = float(np.abs(values.astype(np.float64)) @ lists.peaks[dims].astype(np.float64))
    slack = 2 * (len(dims) + 4) * UNIT * bound + np.finfo(np.float32).tiny
    threshold = _lower_bound(total, k) - slack
    if threshold > slack:  # clear of the zeros of documents that share nothing with the query
        return np.flatnonzero(total >= np.nextafter(np.float32(threshold), np.float32(-np.inf)))
    near = lists.matched(dims)
    return near if blocked is None else near[~blocked[near]]


def _lower_bound(total: np.ndarray, k: int) -> float:
    """Return a number that at least k entries reach, or -inf; close to the k-th largest."""
    if k > len(total):
        return -np.inf
    n_blocks = len(total) // BLOCK
    if n_blocks < 4 * k:
        return float(np.partition(total, len(total) - k)[len(total) - k])
    # Entries n, n + n_blocks, ... are a block: the k-th largest maximum is reached in k blocks.
    largest = total[: n_blocks * BLOCK].reshape(BLOCK, n_blocks).max(axis=0)
    return float(np.partition(largest, n_blocks - k)[n_blocks - k])
