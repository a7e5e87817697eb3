"""What an encoder offers to indexes and searchers: sparse rows for documents and for queries."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from sparsecode._checks import check_int


class AbstractEncoder(ABC):
    """Turn embeddings or texts into sparse rows that are scored by dot products.

    What it returns are `scipy.sparse.csr_matrix` of float32 with sorted indices and without
    explicit zeros. The score of a query and a document is the dot product of their rows.
    """

    @property
    @abstractmethod
    def n_dimensions(self) -> int:
        """Columns of what it returns."""

    @abstractmethod
    def encode_documents(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the rows of documents.

        Parameters
        ----------
        X : array, Tensor or sequence of str
            As the encoder takes it.
        k : int or None, default=None
            Entries to keep in each row at most, the largest first; None keeps what the encoder
            keeps by itself.

        Returns
        -------
        csr_matrix of shape (n_documents, n_dimensions), float32
        """

    @abstractmethod
    def encode_queries(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the rows of queries; see `encode_documents`."""

    def dimension_names(self, ids: Sequence[int]) -> list[str]:
        """Return what to call some dimensions in explanations.

        Parameters
        ----------
        ids : sequence of int

        Returns
        -------
        list of str
            Tokens or labels where there are any, else ``"latent 17"``.
        """
        return [f"latent {number}" for number in ids]


def contributions(query: Any, document: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what each dimension adds to the score of a query and a document.

    Parameters
    ----------
    query, document : csr_matrix of shape (1, F)

    Returns
    -------
    ids : ndarray of int64
        The dimensions that both have, the largest contribution first.
    values : ndarray of float64
        Their products, whose sum is the score.

    Examples
    --------
    >>> query = scipy.sparse.csr_matrix([[1.0, 0.0, 2.0]])
    >>> document = scipy.sparse.csr_matrix([[3.0, 1.0, 4.0]])
    >>> contributions(query, document)
    (array([2, 0]), array([8., 3.]))
    """
    rows: list[Any] = [scipy.sparse.csr_matrix(row, dtype=np.float64) for row in (query, document)]
    if rows[0].shape != rows[1].shape or rows[0].shape[0] != 1:
        raise ValueError(
            "`query` and `document` must be two rows of shape (1, n_dimensions); "
            f"got {rows[0].shape} and {rows[1].shape}."
        )
    product = rows[0].multiply(rows[1]).tocsr()
    product.eliminate_zeros()
    product.sort_indices()
    order = np.argsort(-product.data, kind="stable")
    return product.indices[order].astype(np.int64), product.data[order]


def largest(rows: Any, k: int | None) -> scipy.sparse.csr_matrix:
    """Keep the `k` largest entries of each row by size, ties to the lower dimension.

    Parameters
    ----------
    rows : csr_matrix of shape (N, F)
    k : int >= 1, or None
        None keeps all.

    Returns
    -------
    csr_matrix of shape (N, F)
    """
    if k is None:
        return rows
    k = check_int("k", k, low=1)
    if rows.nnz == 0:
        return rows
    counts = np.diff(rows.indptr)
    row_ids = np.repeat(np.arange(rows.shape[0]), counts)
    order = np.lexsort((rows.indices, -np.abs(rows.data), row_ids))
    places = np.arange(rows.nnz) - np.repeat(rows.indptr[:-1], counts)
    kept = np.sort(order[places < k])
    indptr = np.concatenate([[0], np.minimum(counts, k).cumsum()])
    return scipy.sparse.csr_matrix(
        (rows.data[kept], rows.indices[kept], indptr.astype(rows.indptr.dtype)), shape=rows.shape
    )


def unit_rows(rows: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Scale each row to length 1; rows of zeros stay.

    Parameters
    ----------
    rows : csr_matrix of shape (N, F)

    Returns
    -------
    csr_matrix of shape (N, F), dtype of `rows`
    """
    exact = rows.astype(np.float64)
    norms = np.sqrt(np.asarray(exact.multiply(exact).sum(axis=1))).ravel()
    factors = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    scaled = rows.copy()
    scaled.data = (scaled.data * np.repeat(factors, np.diff(rows.indptr))).astype(rows.dtype)
    return scaled
