"""OpenSearch and Elasticsearch: bulk lines and queries whose scores are dot products.

Fields are `rank_features`, whose names cannot have dots and whose weights must be positive normal
numbers; a query adds ``weight * feature`` for each of its dimensions, by linear `rank_feature`
clauses. The servers hold a feature with 9 significant bits, so scores have a relative error of up
to 2^-8.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from retrieval.index.base import check_rows
from sparsecode._checks import check_int

SMALLEST = float(np.finfo(np.float32).tiny)
MOST_CLAUSES = 1024
RELATIVE_ERROR = 2.0**-8


def mapping(field: str = "vector") -> dict[str, Any]:
    """Return the body that creates an index for `bulk_lines`.

    Parameters
    ----------
    field : str, default="vector"

    Returns
    -------
    dict

    Examples
    --------
    >>> mapping()
    {'mappings': {'properties': {'vector': {'type': 'rank_features'}}}}
    """
    return {"mappings": {"properties": {field: {"type": "rank_features"}}}}


def bulk_lines(
    documents: Any,
    ids: Iterable[Any],
    *,
    index: str,
    field: str = "vector",
    sources: Iterable[dict[str, Any]] | None = None,
    names: Sequence[str] | None = None,
) -> Iterator[str]:
    r"""Yield the lines of a request to ``_bulk``, two for each document.

    Parameters
    ----------
    documents : scipy sparse matrix of shape (N, F)
        Weights positive: the servers refuse others.
    ids : iterable of N ids
    index : str
        Name of the index on the server.
    field : str, default="vector"
    sources : iterable of N dict, or None, default=None
        Further fields of each document.
    names : sequence of F str, or None, default=None
        Names of the dimensions; None takes ``"d17"`` for dimension 17.

    Yields
    ------
    str
        JSON without a line break; a request is all of them, each followed by one.

    Examples
    --------
    >>> import scipy.sparse
    >>> rows = scipy.sparse.csr_matrix([[0.5, 0.0, 2.0]])
    >>> print("\n".join(bulk_lines(rows, ["a"], index="docs")))
    {"index": {"_index": "docs", "_id": "a"}}
    {"vector": {"d0": 0.5, "d2": 2.0}}
    """
    rows = _checked("documents", documents)
    known = list(ids)
    further = [{} for _ in known] if sources is None else list(sources)
    if len(known) != rows.shape[0] or len(further) != rows.shape[0]:
        raise ValueError(
            f"`ids` and `sources` must have one item for each of {rows.shape[0]} documents; "
            f"got {len(known)} and {len(further)}."
        )
    labels = _names(names, rows.shape[1])
    for row, (one, source) in enumerate(zip(known, further, strict=True)):
        if field in source:
            raise ValueError(f"`sources` must not have the field {field!r}; document {one!r} has.")
        yield json.dumps({"index": {"_index": index, "_id": str(one)}})
        yield json.dumps({**source, field: dict(_weights(rows, row, labels))})


def query(
    row: Any, k: int = 10, *, field: str = "vector", names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the body of a request to ``_search`` that scores by the dot product.

    Parameters
    ----------
    row : scipy sparse matrix of shape (1, F)
        Weights positive, at most 1,024 of them: the servers refuse more clauses.
    k : int, default=10
    field : str, default="vector"
    names : sequence of F str, or None, default=None
        As in `bulk_lines`.

    Returns
    -------
    dict
        Without an entry in `row` it matches nothing.

    Examples
    --------
    >>> import scipy.sparse
    >>> query(scipy.sparse.csr_matrix([[0.0, 2.0]]), k=3)["query"]["bool"]["should"]
    [{'rank_feature': {'field': 'vector.d1', 'boost': 2.0, 'linear': {}}}]
    """
    rows = _checked("row", row)
    size = check_int("k", k, low=1)
    if rows.shape[0] != 1:
        raise ValueError(f"`row` must be one row; got {rows.shape[0]}.")
    if rows.nnz > MOST_CLAUSES:
        raise ValueError(
            f"`row` must have at most {MOST_CLAUSES} entries, the number of clauses that servers "
            f"take; got {rows.nnz}. Use Pruning(k={MOST_CLAUSES})."
        )
    labels = _names(names, rows.shape[1])
    clauses = [
        {"rank_feature": {"field": f"{field}.{name}", "boost": weight, "linear": {}}}
        for name, weight in _weights(rows, 0, labels)
    ]
    if not clauses:
        return {"size": size, "query": {"match_none": {}}}
    return {
        "size": size,
        "query": {"bool": {"should": clauses, "minimum_should_match": 1}},
    }


def _checked(name: str, matrix: Any) -> Any:
    rows: Any = check_rows(name, matrix, getattr(matrix, "shape", (0, 0))[-1])
    if rows.nnz and rows.data.min() < SMALLEST:
        raise ValueError(
            f"`{name}` must have weights of at least {SMALLEST:g} for `rank_features`; "
            f"got {rows.data.min():g}."
        )
    return rows


def _names(names: Sequence[str] | None, width: int) -> Sequence[str] | None:
    if names is None:
        return None
    if len(names) != width or len(set(names)) != width:
        raise ValueError(f"`names` must be {width} different names; got {len(set(names))}.")
    bad = [name for name in names if not name or "." in name]
    if bad:
        raise ValueError(
            f"`names` must not be empty or have dots, which `rank_features` refuses; "
            f"got {bad[0]!r}. Use names=None, or replace them."
        )
    return names


def _weights(rows: Any, row: int, labels: Sequence[str] | None) -> Iterator[tuple[str, float]]:
    own = slice(rows.indptr[row], rows.indptr[row + 1])
    for dim, weight in zip(rows.indices[own].tolist(), rows.data[own].tolist(), strict=True):
        yield f"d{dim}" if labels is None else str(labels[dim]), weight
