"""Scoring: sparse queries against sparse documents, the exact first k."""

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import check_int
from sparsecode._impl import Impl, choose_impl
from sparsecode.codes import SparseCodes
from sparsecode.ops.scoring import cpu, reference
from sparsecode.ops.scoring.postings import Postings
from sparsecode.ops.scoring.queries import Queries


def score_topk(
    queries: SparseCodes | Queries,
    documents: Postings | SparseCodes,
    k: int,
    *,
    mask: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Return the documents with the largest dot products with each query.

    The score is the sum of the products over shared dimensions, added in float64 in ascending order
    of dimension and rounded to float32. Documents that share no dimension with a query are never
    among its results, also where they would score higher than a negative match.

    Parameters
    ----------
    queries : SparseCodes or Queries of shape (Q, F)
        Finite. Repeated entries are added, zeros are left out.
    documents : Postings or SparseCodes of shape (N, F)
        Make the postings once, with `Postings.from_codes`, if there is more than one call.
    k : int
        At least 0; may exceed the number of documents.
    mask : Tensor of shape (N,), bool, or None, default=None
        Documents that may be results.
    impl : {"auto", "reference", "cpu"}, default="auto"
        All give the same bits.

    Returns
    -------
    scores : Tensor of shape (Q, k), float32
        Descending; -inf where there are fewer results.
    rows : Tensor of shape (Q, k), int64
        Equal scores have ascending rows; -1 where there are fewer results.

    Raises
    ------
    ValueError
        If shapes disagree, or a query is not finite.

    Examples
    --------
    >>> import scipy.sparse
    >>> documents = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[1.0, 0], [2, 1], [0, 3]]))
    >>> query = SparseCodes(torch.tensor([[2.0]]), torch.tensor([[0]]), 2)
    >>> score_topk(query, documents, 3)
    (tensor([[4., 2., -inf]]), tensor([[ 1,  0, -1]]))
    """
    postings = _as_postings(documents)
    k = check_int("k", k, low=0)
    known = _checked(queries, postings)
    if mask is not None and (mask.dtype != torch.bool or mask.shape != (postings.n_documents,)):
        raise ValueError(
            f"`mask` must be a bool tensor of shape (n_documents,) = ({postings.n_documents},); "
            f"got {mask.dtype} of shape {tuple(mask.shape)}."
        )
    if _choose("score_topk", impl, postings) == "cpu":
        allowed = None if mask is None else mask.numpy()
        scores, rows = cpu.score_topk(known, postings, k, allowed)
        return torch.from_numpy(scores), torch.from_numpy(rows)
    return reference.score_topk(*_tensors(known, postings), postings, k, mask)


def score_topk_arrays(
    queries: Queries, postings: Postings, k: int, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `score_topk` does as NumPy arrays, for callers that have checked everything.

    Parameters
    ----------
    queries : Queries of shape (Q, F)
    postings : Postings of shape (N, F), on the CPU
    k : int
    mask : ndarray of shape (N,), bool, or None, default=None

    Returns
    -------
    tuple of ndarray
    """
    if cpu.supports(postings) is None:
        return cpu.score_topk(queries, postings, k, mask)
    allowed = None if mask is None else torch.from_numpy(mask)
    scores, rows = score_topk(queries, postings, k, mask=allowed)
    return scores.numpy(), rows.numpy()


def score_candidates(
    queries: Queries,
    heaviest: Queries,
    postings: Postings,
    n: int,
    mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return exact scores of the documents that shorter queries find.

    Parameters
    ----------
    queries : Queries of shape (Q, F)
        What documents are scored with.
    heaviest : Queries of shape (Q, F)
        What they are found with.
    postings : Postings of shape (N, F), on the CPU
    n : int
        About how many documents are scored for each query.
    mask : ndarray of shape (N,), bool, or None, default=None

    Returns
    -------
    tuple of ndarray
        Scores, float32 (Q, C), and rows, int64, C at most ``2 n``: ascending rows, then -inf and
        -1 where there are fewer.
    """
    if cpu.supports(postings) is not None:
        _, rows = score_topk_arrays(heaviest, postings, n, mask)
        scores = score_rows(queries, postings, torch.from_numpy(rows))
        return scores.numpy(), rows
    found = cpu.candidates(heaviest, postings, n, mask)
    shape = (len(queries), max((len(near) for near in found), default=0))
    scores, rows = np.full(shape, -np.inf, np.float32), np.full(shape, -1)
    for query, near in enumerate(found):
        scores[query, : len(near)] = postings.lists.exact(*queries[query], near)
        rows[query, : len(near)] = near
    return scores, rows


def score_rows(
    queries: SparseCodes | Queries,
    documents: Postings | SparseCodes,
    rows: Tensor,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """Return the exact scores of given documents, as `score_topk` has them.

    Parameters
    ----------
    queries : SparseCodes or Queries of shape (Q, F)
    documents : Postings or SparseCodes of shape (N, F)
    rows : Tensor of shape (Q, C), int64
        Rows to score for each query, in [-1, N); -1 stands for none.
    impl : {"auto", "reference", "cpu"}, default="auto"

    Returns
    -------
    Tensor of shape (Q, C), float32
        -inf where the document shares no dimension with the query, or there is none.

    Raises
    ------
    ValueError
        If shapes disagree, a row is out of range or a query is not finite.

    Examples
    --------
    >>> import scipy.sparse
    >>> documents = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[1.0, 0], [2, 1], [0, 3]]))
    >>> query = SparseCodes(torch.tensor([[2.0]]), torch.tensor([[0]]), 2)
    >>> score_rows(query, documents, torch.tensor([[2, 1]]))
    tensor([[-inf, 4.]])
    """
    postings = _as_postings(documents)
    known = _checked(queries, postings)
    if rows.dtype != torch.long or rows.ndim != 2 or rows.shape[0] != len(known):
        raise ValueError(
            f"`rows` must be an int64 tensor of shape (n_queries, any) = ({len(known)}, any); "
            f"got {rows.dtype} of shape {tuple(rows.shape)}."
        )
    if rows.numel() and (int(rows.min()) < -1 or int(rows.max()) >= postings.n_documents):
        raise ValueError(
            f"`rows` must lie in [-1, n_documents) = [-1, {postings.n_documents}); "
            f"got values from {int(rows.min())} to {int(rows.max())}."
        )
    if _choose("score_rows", impl, postings) == "cpu":
        return torch.from_numpy(cpu.score_rows(known, postings, rows))
    return reference.score_rows(*_tensors(known, postings), postings, rows)


def _as_postings(documents: Postings | SparseCodes) -> Postings:
    if isinstance(documents, Postings):
        return documents
    if not isinstance(documents, SparseCodes):
        raise TypeError(
            f"`documents` must be Postings or a SparseCodes; got {type(documents).__name__}."
        )
    return Postings.from_codes(documents).to(documents.device)


def _choose(op: str, impl: Impl, postings: Postings) -> str:
    return choose_impl(op, impl, (postings.values,), cpu=lambda: cpu.supports(postings))


def _checked(queries: SparseCodes | Queries, postings: Postings) -> Queries:
    if isinstance(queries, SparseCodes):
        queries = Queries.from_codes(queries)
    elif not isinstance(queries, Queries):
        raise TypeError(f"`queries` must be a SparseCodes; got {type(queries).__name__}.")
    if queries.width != postings.width:
        raise ValueError(
            f"`queries` must have shape (n_queries, width) = (any, {postings.width}); "
            f"got {(len(queries), queries.width)}."
        )
    return queries


def _tensors(queries: Queries, postings: Postings) -> tuple[Tensor, Tensor, list[int]]:
    values, dims = torch.from_numpy(queries.values), torch.from_numpy(queries.dims).long()
    return values.to(postings.device), dims.to(postings.device), queries.crow
