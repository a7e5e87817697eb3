"""What sparse codes cost to search, whatever the engine."""

from typing import Any

import numpy as np
import scipy.sparse


def search_cost(queries: Any, documents: Any) -> dict[str, float]:
    """Return how sparse queries and documents are, and what a search must multiply.

    With the shares p_j of the queries and q_j of the documents in which dimension j is active, a
    pair of them has ``flops = sum_j p_j * q_j`` products on average (Paria et al. 2020);
    an inverted index reads ``flops * n_documents`` entries for a query.

    Parameters
    ----------
    queries : scipy sparse matrix of shape (Q, F)
    documents : scipy sparse matrix of shape (N, F)

    Returns
    -------
    dict
        ``query_active``, ``document_active``: mean number of active dimensions; ``flops``;
        ``r_sub``: ``sum_j q_j^2 * F / (mean active)^2``, 1 if documents spread evenly over the
        dimensions; ``dead_share``: dimensions that no document uses; ``df_max``, ``df_p99``: share
        of documents in which the most frequent dimension, and that at the 99th percentile of the
        dimensions in use, is active; ``df_top1``: share of all entries on the most frequent 1 % of
        the dimensions.

    References
    ----------
    Paria et al. (2020), "Minimizing FLOPs to Learn Efficient Sparse Representations".
    arXiv:2004.05665. Differs from it in: queries and documents may differ.

    Examples
    --------
    >>> documents = scipy.sparse.csr_matrix([[1.0, 0, 2, 0], [0, 3, 1, 0]])
    >>> cost = search_cost(documents[:1], documents)
    >>> cost["flops"], cost["document_active"], cost["dead_share"]
    (1.5, 2.0, 0.25)
    """
    asked, held = _frequencies("queries", queries), _frequencies("documents", documents)
    if len(asked) != len(held):
        raise ValueError(
            f"`queries` must have as many dimensions as `documents`, {len(held)}; got {len(asked)}."
        )
    active, ranked = held.sum(), np.sort(held)[::-1]
    used = held[held > 0]
    most = ranked[: max(1, round(0.01 * len(held)))].sum()
    return {
        "query_active": float(asked.sum()),
        "document_active": float(active),
        "flops": float(asked @ held),
        "r_sub": float((held**2).sum() * len(held) / active**2) if active else 0.0,
        "dead_share": float((held == 0).mean()),
        "df_max": float(held.max()),
        "df_p99": float(np.percentile(used, 99)) if used.size else 0.0,
        "df_top1": float(most / active) if active else 0.0,
    }


def _frequencies(name: str, matrix: Any) -> np.ndarray:
    """Return the share of rows in which each dimension is active."""
    if not scipy.sparse.issparse(matrix) or matrix.ndim != 2 or not all(matrix.shape):
        raise ValueError(
            f"`{name}` must be a SciPy sparse matrix with rows and columns; "
            f"got {type(matrix).__name__} of shape {getattr(matrix, 'shape', None)}."
        )
    rows: Any = scipy.sparse.csr_matrix(matrix, copy=True)
    rows.sum_duplicates()
    rows.eliminate_zeros()
    return np.bincount(rows.indices, minlength=rows.shape[1]) / rows.shape[0]
