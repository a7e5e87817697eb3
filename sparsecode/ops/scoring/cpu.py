"""Scoring on the CPU, with the bits of the reference.

Where there are few entries, their float64 copy is added up, list after list as in the reference.
Else a first pass adds each list of the query to a float32 buffer of all documents, and bounds its
rounding; every document that could be among the first k within that bound is scored again in
float64, in the order that the reference has.
"""

import numpy as np
from torch import Tensor

from sparsecode.ops.scoring.lists import SMALL, Lists, Plan, csc_matvec
from sparsecode.ops.scoring.postings import Postings
from sparsecode.ops.scoring.queries import Queries

BLOCK = 64
UNIT = 2.0**-24
LOWEST = np.finfo(np.float32).min
SHORT = 2**12
"""Documents up to which operations on all queries at once are faster than one after the other."""
AT_ONCE = 2**16
"""Scores of so few documents that are held at once, 512 KiB: they stay in the cache of a core."""


def supports(postings: Postings) -> str | None:
    """Return the objection to the fast path, or None."""
    if csc_matvec is None:
        return "this SciPy has no csc_matvec"
    if postings.device.type != "cpu":
        return f"postings on {postings.device}"
    return None


def score_topk(
    queries: Queries, postings: Postings, k: int, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest scores, float32 (Q, k), and their rows, int64."""
    blocked = None if mask is None else ~mask
    lists, shape = postings.lists, (len(queries), k)
    scores, rows = np.empty(shape, np.float32), np.empty(shape, np.int64)
    scores.fill(-np.inf)
    rows.fill(-1)
    if scores.size and lists.n_documents:
        search = _small if len(lists.values) <= SMALL else _large
        with np.errstate(over="ignore", invalid="ignore"):  # a score beyond float32 is infinite
            search(queries, lists, blocked, scores, rows)
    return scores, rows


def candidates(
    queries: Queries, postings: Postings, n: int, mask: np.ndarray | None
) -> list[np.ndarray]:
    """Return for each query about n ascending rows, from n to 2 n if there are so many matches.

    Their scores are the largest positive ones but for the rounding of float32.
    """
    lists, blocked = postings.lists, None if mask is None else ~mask
    total = np.empty(lists.n_documents, np.float32)
    plan = lists.plan(queries, np.float32) if lists.in_one_call else None
    found = []
    for query in range(len(queries)):
        _first_pass(queries, query, lists, plan, total)
        if blocked is not None:
            np.putmask(total, blocked, 0)
        least = max(_lower_bound(total, n), np.finfo(np.float32).tiny)
        near = (total >= least).nonzero()[0]
        if len(near) > 2 * n:  # many are equal
            near = np.sort(near[np.argpartition(-total[near], n)[:n]])
        found.append(near)
    return found


def score_rows(queries: Queries, postings: Postings, rows: Tensor) -> np.ndarray:
    """Return the scores of given rows, float32 (Q, C); -inf where there is no match or row."""
    lists, scores = postings.lists, np.full(tuple(rows.shape), -np.inf, np.float32)
    for query, wanted in enumerate(rows.numpy()):
        real = wanted >= 0
        scores[query, real] = lists.exact(*queries[query], wanted[real])
    return scores


def _small(
    queries: Queries,
    lists: Lists,
    blocked: np.ndarray | None,
    scores: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Write scores and rows, from the float64 sums of all documents for a few queries at once."""
    plan = lists.plan(queries, np.float64)
    step = AT_ONCE // lists.n_documents if lists.n_documents <= SHORT else 1
    for start in range(0, len(scores), step):
        # A sum that was added to is not -0.0 any more, whatever it comes to.
        total = np.empty((min(step, len(scores) - start), lists.n_documents))
        total.fill(-0.0)
        for place, line in enumerate(total, start):
            lists.add_all(plan, place, line)
        if lists.scales is not None:
            total *= lists.scales
        if blocked is not None:
            total[:, blocked] = -0.0
        first = _first_of_one if len(total) == 1 else _first_of_each
        first(total, scores[start : start + step], rows[start : start + step])


def _first_of_one(total: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
    """Write the k largest of one line, of those that are not -0.0, ties by ascending place."""
    held, k = total[0].astype(np.float32), scores.shape[1]
    least = _lower_bound(held, k)
    if least <= 0:  # among the zeros of documents that share nothing with the query
        held[(total[0] == 0) & np.signbit(total[0])] = -np.inf
        least = max(_kth(held, k), LOWEST)
    row = (held >= least).nonzero()[0]
    found = held[row]
    order = (-found).argsort(kind="stable")[:k]
    scores[0, : len(order)], rows[0, : len(order)] = found[order], row[order]


def _first_of_each(total: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> None:
    """Write the same of all lines, in operations on all of them."""
    held, k = total.astype(np.float32), scores.shape[1]
    least = _kth(held, k)
    low = least <= 0
    if low.any():
        held[low] = np.where((total[low] == 0) & np.signbit(total[low]), -np.inf, held[low])
        least[low] = np.maximum(_kth(held[low], k), LOWEST)
    places = np.flatnonzero(held >= least[:, None])
    query, row = np.divmod(places, total.shape[1])
    found = held.ravel()[places]
    order = np.lexsort((-found, query))  # it keeps the order of rows where scores are equal
    query = query[order]
    rank = np.arange(len(order)) - np.searchsorted(query, np.arange(len(total)))[query]
    kept = rank < k
    query, rank, order = query[kept], rank[kept], order[kept]
    scores[query, rank], rows[query, rank] = found[order], row[order]


def _kth(held: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th largest of each line, -inf if it is shorter."""
    n = held.shape[-1]
    if k > n:
        return np.full(held.shape[:-1], -np.inf, held.dtype)
    held = held.copy()
    held.partition(n - k)
    return held[..., n - k]


def _large(
    queries: Queries,
    lists: Lists,
    blocked: np.ndarray | None,
    scores: np.ndarray,
    rows: np.ndarray,
) -> None:
    """Write scores and rows, from a first pass and exact scores of what it leaves."""
    k, total = scores.shape[1], np.empty(lists.n_documents, np.float32)
    plan = lists.plan(queries, np.float32) if lists.in_one_call else None
    for query in range(len(scores)):
        values, dims = queries[query]
        if not len(dims):
            continue
        _first_pass(queries, query, lists, plan, total)
        near = _near_the_top(values, dims, lists, k, blocked, total)
        exact = lists.exact(values, dims, near)
        order = np.argsort(-exact, kind="stable")[:k]  # near ascends: ties go to the lower row
        order = order[exact[order] > -np.inf]
        scores[query, : len(order)], rows[query, : len(order)] = exact[order], near[order]


def _first_pass(
    queries: Queries, query: int, lists: Lists, plan: Plan | None, total: np.ndarray
) -> None:
    """Write the scores of all documents, rounded."""
    total.fill(0)
    if plan is not None:
        lists.add_all(plan, query, total)
    else:
        lists.add(*queries[query], total)
    if lists.scales is not None:
        total *= lists.scales


def _near_the_top(
    values: np.ndarray,
    dims: np.ndarray,
    lists: Lists,
    k: int,
    blocked: np.ndarray | None,
    total: np.ndarray,
) -> np.ndarray:
    """Return ascending rows that hold the first k whatever the rounding of the first pass did."""
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
