"""Hybrid search: several rankings made one."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from retrieval.index.ids import check_ids, check_unique, decode_ids
from retrieval.index.results import SearchResults, from_lists
from sparsecode._checks import check_choice, check_float, check_int

Normalization = Literal["min_max", "z", "none"]


def reciprocal_rank_fusion(
    results: Sequence[SearchResults], k: int = 10, *, rank_constant: int = 60
) -> SearchResults:
    """Fuse rankings by ranks: a document scores ``sum 1 / (rank_constant + rank)``.

    Parameters
    ----------
    results : sequence of SearchResults
        Of the same queries, in the same order.
    k : int, default=10
    rank_constant : int, default=60

    Returns
    -------
    SearchResults

    References
    ----------
    Cormack, Clarke and Buettcher (2009), "Reciprocal Rank Fusion outperforms Condorcet and
    individual Rank Learning Methods", SIGIR. Differs from it in: nothing.

    Examples
    --------
    >>> from retrieval.index.results import from_lists
    >>> first = from_lists([[(1, 0.9), (2, 0.8)]], 2, text_ids=False)
    >>> second = from_lists([[(2, 7.0), (3, 6.0)]], 2, text_ids=False)
    >>> reciprocal_rank_fusion([first, second], k=3).ids
    array([[2, 1, 3]])
    """
    constant = check_int("rank_constant", rank_constant, low=1)
    n_queries = _check_same(results)
    fused: list[dict[Any, float]] = [{} for _ in range(n_queries)]
    for result in results:
        for scores, pairs in zip(fused, result.lists(), strict=True):
            for rank, (one, _) in enumerate(pairs, start=1):
                scores[one] = scores.get(one, 0.0) + 1 / (constant + rank)
    return _results(fused, results, k)


def linear_fusion(
    results: Sequence[SearchResults],
    k: int = 10,
    *,
    weights: Sequence[float] | None = None,
    normalization: Normalization = "min_max",
) -> SearchResults:
    """Fuse rankings by scores: a weighted sum of normalized scores.

    Scores are normalized within each ranking of each query; a document that a ranking does not have
    gets what its last one has.

    Parameters
    ----------
    results : sequence of SearchResults
        Of the same queries, in the same order.
    k : int, default=10
    weights : sequence of float or None, default=None
        One for each ranking; None weighs them equally, with sum 1.
    normalization : {"min_max", "z", "none"}, default="min_max"
        To [0, 1]; or to mean 0 and standard deviation 1; or not at all, where a document that is
        missing gets 0. Equal scores become 1 ("min_max") or 0 ("z").

    Returns
    -------
    SearchResults
    """
    n_queries = _check_same(results)
    check_choice("normalization", normalization, ("min_max", "z", "none"))
    shares = [1 / len(results)] * len(results) if weights is None else list(weights)
    if len(shares) != len(results) or not np.isfinite(shares).all():
        raise ValueError(
            f"`weights` must be {len(results)} finite numbers, one for each ranking; got {weights}."
        )
    fused: list[dict[Any, float]] = [{} for _ in range(n_queries)]
    every = [result.lists() for result in results]
    for query, scores in enumerate(fused):
        known = {one for lists in every for one, _ in lists[query]}
        for share, lists in zip(shares, every, strict=True):
            values, missing = _normalized(dict(lists[query]), normalization)
            for one in known:
                scores[one] = scores.get(one, 0.0) + share * values.get(one, missing)
    return _results(fused, results, k)


def rescore(
    candidates: SearchResults, queries: Any, documents: Any, ids: Iterable[Any], k: int = 10
) -> SearchResults:
    """Score the candidates of a first search again, with other embeddings (two-phase search).

    Parameters
    ----------
    candidates : SearchResults
        Of the first search, with more results than `k`.
    queries : array of shape (Q, d)
        Dense embeddings of the queries.
    documents : array of shape (N, d)
        Dense embeddings, which may be memory-mapped; only candidates are read.
    ids : iterable of N ids
        Of the documents.
    k : int, default=10

    Returns
    -------
    SearchResults
        With the dot products of the embeddings as scores.
    """
    rows = {one: row for row, one in enumerate(ids)}
    if len(rows) != len(documents) or len(queries) != len(candidates):
        raise ValueError(
            f"`ids` must be one for each of {len(documents)} documents, and `queries` one row for "
            f"each of {len(candidates)} results; got {len(rows)} and {len(queries)}."
        )
    fused = []
    for query, pairs in enumerate(candidates.lists()):
        known = [one for one, _ in pairs]
        missing = [one for one in known if one not in rows]
        if missing:
            raise ValueError(f"`ids` must have every candidate; {missing[0]!r} is missing.")
        own = np.asarray([documents[rows[one]] for one in known], np.float64)
        scores = own @ np.asarray(queries[query], np.float64) if known else []
        fused.append(dict(zip(known, map(float, scores), strict=True)))
    return _results(fused, [candidates], k)


class BM25:
    """The lexical leg: BM25 by ``bm25s``, with the results of an index.

    Parameters
    ----------
    documents : sequence of str
    ids : sequence of int or str, or None, default=None
        None counts from 0.
    k1 : float, default=0.9
    b : float, default=0.4
    stopwords : str, default="en"
        List of bm25s; "" keeps every word.

    Examples
    --------
    >>> leg = BM25(["sparse codes are short", "dense vectors are long"], ["s", "d"])
    >>> leg.search(["a sparse code", "nothing of it"], k=1).ids.tolist()
    [['s'], [None]]
    """

    def __init__(
        self,
        documents: Sequence[str],
        ids: Sequence[Any] | None = None,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        stopwords: str = "en",
    ) -> None:
        texts = _texts("documents", documents)
        known = check_ids("ids", range(len(texts)) if ids is None else ids)
        if not texts or len(known) != len(texts):
            raise ValueError(
                f"`documents` must be at least one text, with an id for each; "
                f"got {len(texts)} texts and {len(known)} ids."
            )
        check_unique("ids", known)
        self.ids = decode_ids(known)
        self.stopwords = stopwords
        self._bm25s = _import_bm25s()
        words = self._tokens(texts)
        if not any(words):
            raise ValueError(
                f"`documents` must have a word that is no stop word; none of {len(texts)} has one. "
                'Use stopwords="" to keep every word.'
            )
        self._index = self._bm25s.BM25(
            k1=check_float("k1", k1, low=0), b=check_float("b", b, low=0, high=1)
        )
        self._index.index(words, show_progress=False)

    def search(self, queries: Sequence[str], k: int = 10) -> SearchResults:
        """Return the k documents with the largest scores for each query.

        Parameters
        ----------
        queries : sequence of str
        k : int, default=10

        Returns
        -------
        SearchResults
            Documents that share no word with the query are not results.
        """
        k = check_int("k", k, low=1)
        found = []
        for words in self._tokens(_texts("queries", queries)):
            scores = self._index.get_scores(words) if words else np.zeros(len(self.ids))
            rows = np.flatnonzero(scores > 0)
            if len(rows) > k:
                least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
                rows = rows[scores[rows] >= least]  # all that tie, for the order of their ids
            found.append([(self.ids[row], float(scores[row])) for row in rows])
        return from_lists(found, k, text_ids=isinstance(self.ids[0], str))

    def _tokens(self, texts: list[str]) -> list[list[str]]:
        words = self.stopwords or None
        return self._bm25s.tokenize(texts, stopwords=words, return_ids=False, show_progress=False)


def _texts(name: str, texts: Iterable[str]) -> list[str]:
    """Return a list of texts."""
    listed = [texts] if isinstance(texts, (str, bytes)) else list(texts)
    wrong = [text for text in listed if not isinstance(text, str)]
    if isinstance(texts, (str, bytes)) or wrong:
        got = f"the single {type(texts).__name__}" if not wrong else repr(wrong[0])[:40]
        raise TypeError(f"`{name}` must be a sequence of strings; got {got}.")
    return listed


def _import_bm25s() -> Any:
    try:
        import bm25s
    except ModuleNotFoundError:
        raise ImportError(
            "`BM25` needs bm25s. Install it with pip install 'sparsecode[retrieval]'."
        ) from None
    return bm25s


def _check_same(results: Sequence[SearchResults]) -> int:
    if not results or len({len(result) for result in results}) != 1:
        raise ValueError(
            f"`results` must be at least one, all of the same queries; "
            f"got {[len(result) for result in results]} queries."
        )
    filled = [result for result in results if result.n_found.any()]  # the others have no ids
    if len({result.ids.dtype.kind for result in filled}) > 1:
        raise TypeError("`results` must have ids of one kind; got ints and strings.")
    return len(results[0])


def _normalized(
    scores: dict[Any, float], normalization: Normalization
) -> tuple[dict[Any, float], float]:
    """Return the scores of one ranking, normalized, and what a missing document gets."""
    if not scores or normalization == "none":
        return scores, 0.0
    values = np.array(list(scores.values()))
    if normalization == "z":
        spread = values.std()
        values = (values - values.mean()) / spread if spread else np.zeros_like(values)
    else:
        spread = values.max() - values.min()
        values = (values - values.min()) / spread if spread else np.ones_like(values)
    missing = float(values.min()) if spread else 0.0
    return dict(zip(scores, values.tolist(), strict=True)), missing


def _results(
    fused: Sequence[dict[Any, float]], results: Sequence[SearchResults], k: int
) -> SearchResults:
    text_ids = any(result.ids.dtype.kind == "O" for result in results if result.n_found.any())
    text_ids = text_ids or all(result.ids.dtype.kind == "O" for result in results)
    pairs = [list(scores.items()) for scores in fused]
    return from_lists(pairs, check_int("k", k, low=1), text_ids=text_ids)
