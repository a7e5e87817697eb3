"""Exact sparse search: ``ExactIndex`` against scipy's ``q @ D.T`` and engines of Qdrant.

Rows like those of SPLADE: 30,522 dimensions drawn with Zipf weights (exponent 0.8), 105 entries a
document, 21.5 a query, log-gamma weights. Top-10 of one query at a time, one thread, all engines on
the same rows in one process; a time covers the whole call, from a CSR row to ids and scores. Ratios
are to scipy on a ready CSR of D.T with ``argpartition``: below 1 is faster. ``reads`` is the number
of entries of the lists of a query, what an exact search without skipping must read. Then 40 queries
in one call, over scipy's product and dense top-k of the same; and two-phase over exact search, with
even and with skewed weights. ``draw_retrieval_index.py`` draws the result.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
from measure import interleave

from retrieval import ExactIndex, QdrantEdgeIndex

WIDTH, K, QUERIES = 30_522, 10, 40
BASELINE = "scipy q @ D.T, top-k"
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
ENGINES = (1_000, 5_000, 20_000, 200_000)
"""Sizes at which other engines are run too: making their indexes takes most of the time."""
SLOW = 5_000
"""Documents up to which engines that score in Python are run: they take linear time."""


def rows(n_rows: int, n_active: float, seed: int) -> Any:
    """Return random rows with Zipf dimensions and log-gamma weights."""
    rng = np.random.default_rng(seed)
    shares = np.cumsum((np.arange(WIDTH) + 10.0) ** -0.8)
    lengths = rng.poisson(n_active * 1.03, n_rows)  # some dimensions are drawn twice
    dims = np.searchsorted(shares / shares[-1], rng.random(lengths.sum()))
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    weights = np.log1p(rng.gamma(2.0, 0.5, len(dims))).astype(np.float32)
    made = scipy.sparse.csr_matrix((weights, dims.astype(np.int32), indptr), (n_rows, WIDTH))
    made.sum_duplicates()
    return made


def objection(scores: np.ndarray, queries: Any, documents: Any) -> str | None:
    """Return why scores are wrong; None if they are the largest of the dense product."""
    dense = (queries @ documents.T).toarray()
    best = -np.sort(-dense, axis=1)[:, :K]
    return None if np.allclose(scores, best, rtol=1e-5) else "scores differ from the dense product"


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return the contenders at each number of documents."""
    torch.set_num_threads(1)
    lines = [
        line for n in (SIZES[:1] if smoke else SIZES) for line in size(n, rounds=2 if smoke else 7)
    ]
    return lines + two_phases(2_000 if smoke else 200_000, rounds=2 if smoke else 5)


def size(n_documents: int, rounds: int) -> list[dict]:
    """Return what all contenders take for one query, and the first two for all of them at once."""
    documents, queries = rows(n_documents, 105, seed=0), rows(QUERIES, 21.5, seed=1)
    each = [queries[row] for row in range(QUERIES)]
    turned = documents.T.tocsr()
    searches: dict[str, Callable[[Any], np.ndarray]] = {
        BASELINE: lambda query: scipy_search(query, turned),
        "scipy, no top-k": lambda query: query @ turned,
    }
    facts: dict[str, dict] = {name: {} for name in searches}
    for values in ("float32", "float16", "uint8"):
        start = time.perf_counter()
        index = ExactIndex(WIDTH, values=values).add(documents)
        name = f"ExactIndex {values}"
        facts[name] = _built(start, index.nbytes, n_documents)
        searches[name] = lambda query, index=index: index.search(query, K).scores[0]
    if n_documents in ENGINES:
        for name, search, fact in _engines(documents, n_documents):
            searches[name], facts[name] = search, fact
    reads = int(np.diff(turned.indptr)[queries.indices].sum() / QUERIES)
    lines = _timed(n_documents, searches, facts, each, queries, documents, reads, rounds)
    return lines + _batched(n_documents, queries, turned, documents, rounds)


def scipy_search(query: Any, turned: Any) -> np.ndarray:
    """Return the scores of the first documents of one query, in order."""
    found = query @ turned
    best = np.argpartition(-found.data, K)[:K]
    order = np.lexsort((found.indices[best], -found.data[best]))
    return found.data[best[order]]


def scipy_batch(queries: Any, turned: Any) -> np.ndarray:
    """Return the same of several queries, over their dense scores."""
    dense = (queries @ turned).toarray()
    best = np.argpartition(-dense, K, axis=1)[:, :K]
    scores = np.take_along_axis(dense, best, 1)
    return np.take_along_axis(scores, np.lexsort((best, -scores), axis=1), 1)


def _batched(n_documents: int, queries: Any, turned: Any, documents: Any, rounds: int) -> list:
    index, baseline = ExactIndex(WIDTH).add(documents), f"scipy, {QUERIES} at once"
    searches: dict[str, Callable[[], object]] = {
        baseline: lambda: scipy_batch(queries, turned),
        f"ExactIndex, {QUERIES} at once": lambda: index.search(queries, K),
    }
    timings = interleave(searches, baseline=baseline, rounds=rounds, seconds=10, warmup=1)
    return [_line(n_documents, name, t.row(), QUERIES) for name, t in timings.items()]


def two_phases(n_documents: int, rounds: int) -> list[dict]:
    """Return two-phase search beside exact search: even and skewed weights, short and long rows."""
    lines = []
    for n_active, n_asked, skew in ((105, 21.5, 0), (105, 21.5, 1), (250, 60, 1)):
        documents, queries = rows(n_documents, n_active, 0), rows(QUERIES, n_asked, 1)
        if skew:  # log-normal weights: a few of a row are most of it
            rng = np.random.default_rng(5)
            for matrix in (queries, documents):
                matrix.data = np.exp(rng.standard_normal(matrix.nnz)).astype(np.float32)
        case = f"N={n_documents}, {n_active} x {n_asked}, {'skewed' if skew else 'even'}"
        lines += _phases(case, ExactIndex(WIDTH).add(documents), queries, rounds)
    return lines


def _phases(case: str, index: ExactIndex, queries: Any, rounds: int) -> list[dict]:
    def searches_with(given: dict[str, Any]) -> Callable[[], object]:
        return lambda: [index.search(queries[row], K, **given) for row in range(QUERIES)]

    searches, facts = {"exact": searches_with({})}, {"exact": {}}
    for first_terms, n_candidates in ((8, 20), (12, 20), (12, 100)):
        given = {"first_terms": first_terms, "n_candidates": n_candidates}
        name = f"two-phase {first_terms}/{n_candidates}"
        searches[name], facts[name] = (
            searches_with(given),
            {"recall": index.recall(queries, K, **given)},
        )
    timings = interleave(searches, baseline="exact", rounds=rounds, seconds=10, warmup=1)
    return [_line(case, name, t.row(), QUERIES) | facts[name] for name, t in timings.items()]


def _line(case: object, name: str, row: dict, n_queries: int) -> dict:
    return {
        "case": case if isinstance(case, str) else f"N={case}",
        "name": name,
        "ms_per_query": row["ms"] / n_queries,
        "ratio": row.get("ratio"),
        "status": "ok",
    }


def _timed(n_documents, searches, facts, each, queries, documents, reads, rounds) -> list[dict]:
    """Return the lines of searches of one query at a time, those that are right first."""
    lines = []
    for name in list(searches):
        sample = each[:2] if name in ("qdrant-client local", "milvus-lite") else each
        if name.startswith(("ExactIndex float32", BASELINE, "QdrantEdge")):
            wrong = objection(np.stack([searches[name](q) for q in each]), queries, documents)
            if wrong:
                lines.append(
                    {"case": f"N={n_documents}", "name": name, "status": f"WRONG: {wrong}"}
                )
                del searches[name]
                continue
        search = searches[name]
        searches[name] = lambda sample=sample, search=search: [search(q) for q in sample]
        facts[name]["n"] = len(sample)
    timings = interleave(searches, baseline=BASELINE, rounds=rounds, seconds=15, warmup=1)
    for name, timing in timings.items():
        n = facts[name].pop("n")
        row = {"case": f"N={n_documents}", "name": name, "ms_per_query": timing.row()["ms"] / n}
        ratio = timing.row().get("ratio")
        row["ratio"] = None if ratio is None else ratio * QUERIES / n
        lines.append({**row, "reads": reads, **facts[name], "status": "ok"})
    return lines


def _built(start: float, n_bytes: int | None, n_documents: int) -> dict:
    per_document = None if n_bytes is None else n_bytes / n_documents
    return {"build_s": time.perf_counter() - start, "bytes_per_document": per_document}


def _engines(documents: Any, n_documents: int):
    """Yield the other engines: name, search of one row, facts."""
    start = time.perf_counter()
    edge = QdrantEdgeIndex(WIDTH).add(documents)
    edge.optimize()
    q, facts = edge._qdrant, _built(start, None, n_documents)

    def edge_search(query: Any) -> np.ndarray:
        vector = q.SparseVector(query.indices.tolist(), query.data.tolist())
        nearest = q.Query.Nearest(vector, using="sparse")
        found = edge._shard.query(q.QueryRequest(limit=K, query=nearest))
        return np.array([point.score for point in found])

    yield "qdrant-edge, bare", edge_search, facts
    yield "QdrantEdgeIndex", lambda query: edge.search(query, K).scores[0], {}
    if n_documents > SLOW:
        return
    yield from _qdrant_local(documents, n_documents)


def _qdrant_local(documents: Any, n_documents: int):
    try:
        from qdrant_client import QdrantClient, models
    except ModuleNotFoundError:
        return
    start = time.perf_counter()
    client = QdrantClient(":memory:")
    client.create_collection("c", {}, sparse_vectors_config={"s": models.SparseVectorParams()})

    def vector(row: Any) -> Any:
        return models.SparseVector(indices=row.indices.tolist(), values=row.data.tolist())

    points = [
        models.PointStruct(id=row, vector={"s": vector(documents[row])}, payload={})
        for row in range(n_documents)
    ]
    client.upsert("c", points)
    facts = _built(start, None, n_documents)

    def search(query: Any) -> np.ndarray:
        found = client.query_points("c", query=vector(query), using="s", limit=K)
        return np.array([point.score for point in found.points])

    yield "qdrant-client local", search, facts
