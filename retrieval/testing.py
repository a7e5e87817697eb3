"""Checks of contracts, for our tests and for users' own classes."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse

from retrieval.index.base import AbstractIndex
from retrieval.index.exact import ExactIndex
from retrieval.index.opening import open_index

WIDTH = 60
MakeIndex = Callable[[int], AbstractIndex]


def check_index(
    make: MakeIndex,
    *,
    rtol: float = 1e-6,
    recall: float = 1.0,
    keeps: bool = True,
    text_ids: bool = True,
) -> None:
    """Check the contract of an index; raise AssertionError at what does not hold.

    Results are compared with those of `ExactIndex` on the same documents: rows without an entry,
    queries without an entry, k above the number of documents, equal scores, dimensions that no
    document has, filters, additions in parts, deletions, duplicate ids, NaN, and saving.

    Parameters
    ----------
    make : callable
        Takes the number of dimensions; returns a new, empty index.
    rtol : float, default=1e-6
        Allowed relative error of a score.
    recall : float, default=1.0
        Share of the exact results that must be found; 1 requires them in the same order.
    keeps : bool, default=True
        Whether `save` is to be checked.
    text_ids : bool, default=True
        Whether ids that are strings are to be checked.

    Examples
    --------
    >>> check_index(ExactIndex)
    """
    contract = _Contract(make, rtol, recall)
    contract.finds_what_exact_search_finds()
    contract.orders_equal_scores_by_id()
    contract.serves_empty_rows_and_large_k()
    contract.filters()
    contract.adds_and_deletes()
    contract.refuses()
    if text_ids:
        contract.has_ids_that_are_strings()
    if keeps:
        contract.keeps_everything()


def random_rows(n_rows: int, width: int, n_active: int, seed: int) -> scipy.sparse.csr_matrix:
    """Return rows with positive weights on random dimensions.

    Parameters
    ----------
    n_rows, width, n_active : int
    seed : int

    Returns
    -------
    csr_matrix of shape (n_rows, width), float32
    """
    rng = np.random.default_rng(seed)
    dims = np.argsort(rng.random((n_rows, width)), axis=1)[:, :n_active]
    values = rng.random((n_rows, n_active), dtype=np.float32) + 0.1
    indptr = np.arange(n_rows + 1) * n_active
    shape = (n_rows, width)
    rows = scipy.sparse.csr_matrix((values.ravel(), dims.ravel(), indptr), shape=shape)
    rows.sort_indices()
    return rows


class _Contract:
    def __init__(self, make: MakeIndex, rtol: float, recall: float) -> None:
        self.make, self.rtol, self.recall = make, rtol, recall
        self.documents = random_rows(300, WIDTH, 8, seed=0)
        self.queries = random_rows(20, WIDTH, 5, seed=1)
        self.exact = ExactIndex(WIDTH).add(self.documents)

    def finds_what_exact_search_finds(self) -> None:
        index = self.make(WIDTH)
        assert len(index) == 0
        assert not index.search(self.queries, 3).n_found.any(), "an empty index finds nothing"
        assert index.add(self.documents) is index, "`add` must return the index"
        assert len(index) == 300
        assert 299 in index
        assert 300 not in index
        for k in (1, 10):
            self._same(index, self.exact, self.queries, k)

    def orders_equal_scores_by_id(self) -> None:
        ids = [5, 900, 2, 7, 3]
        index = self.make(WIDTH).add(_rows([{0: 1.0}] * 5), ids=ids)
        found = index.search(_rows([{0: 2.0}]), 3)
        if self.recall == 1:
            assert found.ids.tolist() == [[2, 3, 5]], f"equal scores go by id; got {found.ids}"
        assert np.allclose(found.scores, 2.0)

    def serves_empty_rows_and_large_k(self) -> None:
        index = self.make(WIDTH).add(_rows([{}, {1: 1.0}, {2: 1.0, 1: 0.5}, {}]))
        assert len(index) == 4
        found = index.search(_rows([{1: 2.0}, {}, {59: 1.0}]), 10)
        assert found.ids.shape == (3, 10)
        assert found.scores.dtype == np.float32
        assert found.lists() == [[(1, 2.0), (2, 1.0)], [], []], f"got {found.lists()}"
        assert (found.ids[1:] == -1).all(), "empty places have id -1"
        assert index.search(_rows([]), 2).ids.shape == (0, 2)
        only_empty = self.make(WIDTH).add(_rows([{}]))
        assert only_empty.search(_rows([{1: 2.0}]), 1).lists() == [[]]
        assert len(only_empty.add(_rows([]))) == 1

    def filters(self) -> None:
        index = self.make(WIDTH).add(self.documents)
        for allowed in ([3, 77, 120, 121, 250], list(range(0, 300, 2)), [], [10_000]):
            self._same(index, self.exact, self.queries, 5, filter=allowed)

    def adds_and_deletes(self) -> None:
        index, exact = self.make(WIDTH), ExactIndex(WIDTH)
        for start in range(0, 300, 60):
            index.add(self.documents[start : start + 60])
        self._same(index, self.exact, self.queries, 10)
        gone = self.exact.search(self.queries, 2).ids[:, 0]
        gone = np.unique(gone)
        index.delete(gone)
        exact.add(self.documents).delete(gone)
        assert len(index) == 300 - len(gone)
        assert int(gone[0]) not in index
        self._same(index, exact, self.queries, 10)
        index.add(self.documents[gone], ids=gone.tolist())  # they may come back
        self._same(index, self.exact, self.queries, 10)
        index.delete(range(300))
        assert len(index) == 0
        assert not index.search(self.queries, 3).n_found.any()
        assert 300 in index.add(self.documents[:1]), "an id that was used is not given again"

    def refuses(self) -> None:
        index = self.make(WIDTH).add(self.documents[:5])
        wrong = _rows([{0: np.nan}])
        _raises(ValueError, "finite", lambda: index.add(wrong))
        _raises(ValueError, "finite", lambda: index.search(wrong, 1))
        _raises(ValueError, "finite", lambda: index.add(_rows([{0: np.inf}])))
        _raises(ValueError, "unique", lambda: index.add(self.documents[:2], ids=[9, 9]))
        _raises(ValueError, "new", lambda: index.add(self.documents[:2], ids=[9, 4]))
        _raises(ValueError, "in the index", lambda: index.delete([4, 9]))
        _raises(ValueError, "one id for each", lambda: index.add(self.documents[:2], ids=[9]))
        _raises(ValueError, "n_features", lambda: index.add(self.documents[:, :-1]))
        _raises(ValueError, "`k`", lambda: index.search(self.queries, 0))
        _raises(TypeError, "SciPy sparse", lambda: index.add(self.documents.toarray()))
        _raises((TypeError, ValueError), "ints", lambda: index.add(self.documents[:1], ids=["a"]))
        _raises(ValueError, "ints in", lambda: index.add(self.documents[:1], ids=[-1]))
        assert len(index) == 5, "a refused call leaves the index as before"
        self._same(index, ExactIndex(WIDTH).add(self.documents[:5]), self.queries, 5)

    def has_ids_that_are_strings(self) -> None:
        ids = [f"d{number:03d}/\u00e9" for number in range(300)]
        index = self.make(WIDTH).add(self.documents, ids=ids)
        exact = ExactIndex(WIDTH).add(self.documents, ids=ids)
        self._same(index, exact, self.queries, 10)
        allowed = [*ids[::3], "unknown"]
        self._same(index, exact, self.queries, 10, filter=allowed)
        index.delete(ids[:100])
        self._same(index, exact.delete(ids[:100]), self.queries, 5)
        found = index.search(_rows([{}]), 2)
        assert found.ids.tolist() == [[None, None]], "empty places have id None"

    def keeps_everything(self) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            index = self.make(WIDTH).add(self.documents)
            index.delete([7, 8])
            before = index.search(self.queries, 10)
            index.save(path)
            opened = open_index(path)
            assert type(opened) is type(index)
            assert len(opened) == 298
            after = opened.search(self.queries, 10)
            assert np.array_equal(after.ids, before.ids)
            assert np.array_equal(after.scores, before.scores)
            opened.add(self.documents[7:8])
            assert 300 in opened, "ids go on after opening"
            assert 7 not in opened

    def _same(
        self, index: AbstractIndex, exact: ExactIndex, queries: Any, k: int, **options: Any
    ) -> None:
        """Compare with exact search; documents of nearly equal scores may change places."""
        found, expected = (one.search(queries, k, **options) for one in (index, exact))
        known = [dict(pairs) for pairs in exact.search(queries, max(len(exact), 1)).lists()]
        hits = 0
        for pairs, best, scores in zip(found.lists(), expected.lists(), known, strict=True):
            ids = [one for one, _ in pairs]
            assert len(set(ids)) == len(ids), f"a document is a result once; got {ids}"
            hits += len(set(ids) & {one for one, _ in best})
            for one, score in pairs:
                assert np.isclose(score, scores[one], rtol=self.rtol), f"score of {one}: {score}"
        if self.recall == 1:
            same = np.allclose(found.scores, expected.scores, rtol=self.rtol)
            assert same, f"got {found.lists()}, expected {expected.lists()}"
        assert hits >= (self.recall - 1e-2) * expected.n_found.sum()


def _rows(rows: list[dict[int, Any]]) -> scipy.sparse.csr_matrix:
    matrix: Any = scipy.sparse.lil_matrix((len(rows), WIDTH), dtype=np.float32)
    for number, row in enumerate(rows):
        for dim, value in row.items():
            matrix[number, dim] = value
    return matrix.tocsr()


def _raises(kind: Any, text: str, call: Callable[[], object]) -> None:
    message = None
    try:
        call()
    except kind as error:
        message = str(error)
    assert message is not None, f"{kind} must be raised, with {text!r}"
    assert text in message, f"the message must say {text!r}; got {message}"
