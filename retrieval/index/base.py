"""What every index does, checked in one place, whichever engine does the work."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse

from retrieval.index.ids import IdKind, check_ids, check_unique, decode_ids
from retrieval.index.pruning import Pruning
from retrieval.index.results import SearchResults
from sparsecode._checks import check_int
from sparsecode.codes import SparseCodes


class AbstractIndex(ABC):
    """Documents as sparse rows, searched by dot product.

    A document that shares no dimension with a query is never a result of it. Rows without an entry
    are documents like others, which no query finds. Ids are ints from 0 on, or strings; equal
    scores are ordered by ascending id.

    Parameters
    ----------
    n_features : int
        Number of dimensions.
    prune : Pruning or None, default=None
        Applied to documents as they are added.
    """

    def __init__(self, n_features: int, *, prune: Pruning | None = None) -> None:
        self.n_features = check_int("n_features", n_features, low=1)
        if prune is not None and not isinstance(prune, Pruning):
            raise TypeError(f"`prune` must be a Pruning or None; got {type(prune).__name__}.")
        self.prune = prune

    @property
    @abstractmethod
    def id_kind(self) -> IdKind | None:
        """Whether ids are "int" or "str"; None until there was a document."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of documents."""

    @abstractmethod
    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the index to a folder that `open_index` opens.

        Parameters
        ----------
        path : path
            A folder that is new or empty, or the index's own.
        overwrite : bool, default=False
            Replace an index that is there.
        """

    @abstractmethod
    def _add(self, rows: scipy.sparse.csr_matrix, ids: np.ndarray) -> None:
        """Add checked rows under new ids, all or none."""

    @abstractmethod
    def _delete(self, ids: np.ndarray) -> None:
        """Remove documents that are there."""

    @abstractmethod
    def _contains(self, ids: np.ndarray) -> np.ndarray:
        """Return for each id whether it is there."""

    @abstractmethod
    def _next_id(self) -> int:
        """Return an int above all that were ever used."""

    @abstractmethod
    def _search(
        self, queries: scipy.sparse.csr_matrix, k: int, allowed: np.ndarray | None, **options: Any
    ) -> SearchResults:
        """Search for checked queries, among the allowed ids if any are given."""

    def add(self, documents: Any, ids: Iterable[Any] | None = None) -> Self:
        """Add documents.

        Parameters
        ----------
        documents : scipy sparse matrix or SparseCodes of shape (N, n_features)
            Finite. Repeated entries are added, zeros are left out.
        ids : sequence of N ints or strings, or None, default=None
            New and unique. None counts on from the largest int that was ever used.

        Returns
        -------
        AbstractIndex
            Itself.

        Raises
        ------
        ValueError
            If an id is there already, or a document cannot be held; the index is as before.
        """
        rows: Any = check_rows("documents", documents, self.n_features)
        if ids is None:
            if self.id_kind == "str":
                raise ValueError("`ids` must be given, since this index has strings; got None.")
            start = self._next_id()
            known = np.arange(start, start + rows.shape[0], dtype=np.int64)
        else:
            known = check_ids("ids", ids, self.id_kind)
            if len(known) != rows.shape[0]:
                raise ValueError(
                    f"`ids` must have one id for each of {rows.shape[0]} documents; "
                    f"got {len(known)}."
                )
            check_unique("ids", known)
            self._refuse("ids", known, self._contains(known), "new", "are in the index already")
        if self.prune is not None:
            rows = self.prune.apply(rows)
        if len(known):
            self._add(rows, known)
        return self

    def delete(self, ids: Iterable[Any]) -> Self:
        """Remove documents.

        Parameters
        ----------
        ids : sequence of int or str
            All of them in the index, each once.

        Returns
        -------
        AbstractIndex
            Itself.
        """
        known = check_ids("ids", ids, self.id_kind)
        check_unique("ids", known)
        self._refuse("ids", known, ~self._contains(known), "in the index", "are not")
        if len(known):
            self._delete(known)
        return self

    def search(
        self,
        queries: Any,
        k: int = 10,
        *,
        filter: Iterable[Any] | None = None,  # noqa: A002 - what search engines call it
        prune: Pruning | None = None,
        **options: Any,
    ) -> SearchResults:
        """Return the k documents with the largest dot products with each query.

        Parameters
        ----------
        queries : scipy sparse matrix or SparseCodes of shape (Q, n_features)
            Finite.
        k : int, default=10
            May exceed the number of documents.
        filter : collection of ids or None, default=None
            Documents that may be results; ids that are not in the index match nothing, nor do
            those of empty places of results.
        prune : Pruning or None, default=None
            Applied to the queries.
        **options : object
            What the engine offers besides; see the class.

        Returns
        -------
        SearchResults
        """
        rows: Any = check_rows("queries", queries, self.n_features)
        k = check_int("k", k, low=1)
        if prune is not None:
            rows = prune.apply(rows)
        allowed = None
        if filter is not None:
            listed = filter.tolist() if isinstance(filter, np.ndarray) else list(filter)
            wanted = [one for one in listed if one is not None and one != -1]  # of empty places
            allowed = np.unique(check_ids("filter", wanted, self.id_kind))
        return self._search(rows, k, allowed, **options)

    def __contains__(self, one: object) -> bool:
        """Return whether a document of this id is in the index."""
        try:
            known = check_ids("id", [one], self.id_kind)
        except (TypeError, ValueError):
            return False  # no document has such an id
        return bool(self._contains(known)[0])

    @staticmethod
    def _refuse(name: str, ids: np.ndarray, bad: np.ndarray, must: str, fact: str) -> None:
        if bad.any():
            first = decode_ids(ids[bad][:1])[0]
            raise ValueError(
                f"`{name}` must be {must}; {int(bad.sum())} of {len(ids)} {fact}, first {first!r}."
            )


class KeepsDocuments(ABC):
    """An index that gives back the rows it holds."""

    @abstractmethod
    def document(self, one: int | str) -> scipy.sparse.csr_matrix:
        """Return the row that a document is scored with.

        Parameters
        ----------
        one : int or str
            Id of the document.

        Returns
        -------
        csr_matrix of shape (1, n_features), float32
        """


def check_rows(name: str, matrix: Any, width: int) -> scipy.sparse.csr_matrix:
    """Return rows as a canonical CSR matrix of finite float32 without zeros."""
    is_csr = type(matrix) is scipy.sparse.csr_matrix
    known: Any = matrix if is_csr else _scipy_matrix(name, matrix)
    if known.ndim != 2 or known.shape[1] != width:
        raise ValueError(
            f"`{name}` must have shape (any, n_features) = (any, {width}); got {known.shape}."
        )
    rows = _float32_rows(name, known)
    if len(rows.indices):
        ascend = _ascend(rows)
        one = ascend and rows.shape[0] == 1
        indices = rows.indices
        low, high = (indices[0], indices[-1]) if one else (indices.min(), indices.max())
        if not 0 <= low <= high < width:
            raise ValueError(
                f"`{name}` must have indices in [0, n_features) = [0, {width}); got values "
                f"from {low} to {high}."
            )
        if not ascend or np.count_nonzero(rows.data) < len(rows.data):
            rows = _canonical(rows)
    if not np.isfinite(rows.data).all():
        _check_finite(name, rows)
    return rows


def _scipy_matrix(name: str, matrix: Any) -> Any:
    if isinstance(matrix, SparseCodes):
        return matrix.flatten().to_scipy()
    if not scipy.sparse.issparse(matrix):
        raise TypeError(
            f"`{name}` must be a SciPy sparse matrix or SparseCodes; got {type(matrix).__name__}."
        )
    return matrix


def _float32_rows(name: str, matrix: Any) -> Any:
    """Return the matrix itself where it is CSR of float32: this is most of the time of a search."""
    if type(matrix) is scipy.sparse.csr_matrix and matrix.data.dtype == np.float32:
        if len(matrix.data) == len(matrix.indices) == matrix.indptr[-1]:
            return matrix
    elif matrix.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must have real numbers; got dtype {matrix.dtype}.")
    with np.errstate(over="ignore"):  # `_check_finite` says so
        return scipy.sparse.csr_matrix(matrix, dtype=np.float32)


def _ascend(rows: Any) -> bool:
    """Return whether dimensions ascend in each row; SciPy's own flag may be out of date."""
    indices, starts = rows.indices, rows.indptr[1:-1]
    ascends = indices[1:] > indices[:-1]
    if len(starts):
        ascends[starts[(starts > 0) & (starts < len(indices))] - 1] = True
    return bool(ascends.all())


def _canonical(rows: Any) -> Any:
    parts = (rows.data, rows.indices, rows.indptr)
    rows = scipy.sparse.csr_matrix(parts, shape=rows.shape, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return rows


def _check_finite(name: str, rows: Any) -> None:
    bad = np.flatnonzero(~np.isfinite(rows.data))
    if bad.size:
        row = int(np.searchsorted(rows.indptr, bad[0], side="right")) - 1
        raise ValueError(
            f"`{name}` must be finite in float32; got {rows.data[bad[0]]} in row {row}. "
            "Drop or repair those rows first."
        )
