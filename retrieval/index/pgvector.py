"""Postgres with pgvector: documents in a table, searched by SQL."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from retrieval.index.engine import AbstractEngineIndex, missing
from retrieval.index.limits import Limits
from retrieval.index.pruning import Pruning
from sparsecode import io
from sparsecode._checks import check_int

STATE = "state.json"
LONGEST_NAME = 63
"""Bytes of an identifier; Postgres cuts longer ones without a word."""
MOST_ACTIVE, MOST_ACTIVE_HNSW = 16_000, 1_000
SECRETS = ("password", "passfile", "sslpassword")


class PgvectorIndex(AbstractEngineIndex):
    """Search by a table of Postgres with the extension pgvector (0.8 or later), by ``psycopg``.

    The table ``(number bigint, vector sparsevec)`` is made here and must be new. Every addition is
    one transaction. A search reads the whole table and is exact; with ``hnsw=True`` it walks a
    graph, which is approximate: `recall` measures how much it finds, and it is worse for sparse
    rows than for dense ones. Scores are sums in float32. A document whose products with a query
    add up to exactly 0 is not a result.

    Names of documents stay here: `save` writes them; the rows stay in the table, and `open_index`
    connects to it again.

    Parameters
    ----------
    n_features : int
        Number of dimensions, at most 1,000,000,000.
    conninfo : str, default=""
        How to connect, as of libpq: ``"host=db dbname=search"`` or ``"postgresql://..."``.
        Passwords in it are not saved: give it to `open_index` again, or keep them where libpq looks
        (``~/.pgpass``, ``PGPASSWORD``).
    table : str, default="sparsecode"
        Name of the table, in the first schema of the connection's search path.
    hnsw : bool, default=False
        Build a graph at the first search, or by `optimize`, and search it. Documents and queries
        have at most 1,000 entries then, otherwise 16,000.
    m : int in [2, 100], default=16
        Neighbors of a document in the graph.
    ef_construction : int in [4, 1000], default=64
        Candidates while it is built, at least ``2 * m``.
    ef_search : int in [1, 1000], default=100
        Candidates of a search; an option of `search` too.
    prune : Pruning or None, default=None
        Applied to documents as they are added.
    """

    engine = "pgvector"
    search_options = ("ef_search", "exact")

    def __init__(
        self,
        n_features: int,
        *,
        conninfo: str = "",
        table: str = "sparsecode",
        hnsw: bool = False,
        m: int = 16,
        ef_construction: int = 64,
        ef_search: int = 100,
        prune: Pruning | None = None,
    ) -> None:
        most = MOST_ACTIVE_HNSW if hnsw else MOST_ACTIVE
        name = "an HNSW graph of pgvector" if hnsw else "pgvector"
        self.limits = Limits(name=name, n_features=10**9, n_active=most)
        super().__init__(n_features, prune=prune)
        try:
            import psycopg
        except ModuleNotFoundError:
            raise missing("psycopg", "PgvectorIndex", "pgvector") from None
        if not 1 <= len(table.encode()) <= LONGEST_NAME or set(table) & {"\0", "%"}:
            raise ValueError(
                f"`table` must have 1 to {LONGEST_NAME} bytes, without a zero byte or a "
                f"percent sign; got {table!r}."
            )
        self.table, self.hnsw = table, hnsw
        self.m = check_int("m", m, low=2, high=100)
        self.ef_construction = check_int("ef_construction", ef_construction, low=2 * m, high=1000)
        self.ef_search = check_int("ef_search", ef_search, low=1, high=1000)
        self._psycopg: Any = psycopg
        self._conninfo = conninfo
        self._made = self._graph = False
        self._connect()

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without passwords and `prune`."""
        parts = self._psycopg.conninfo.conninfo_to_dict(self._conninfo)
        public = {key: value for key, value in parts.items() if key not in SECRETS}
        return {
            "n_features": self.n_features,
            "conninfo": self._psycopg.conninfo.make_conninfo(**public),
            "table": self.table,
            "hnsw": self.hnsw,
            "m": self.m,
            "ef_construction": self.ef_construction,
            "ef_search": self.ef_search,
        }

    def optimize(self) -> None:
        """Build the graph now, rather than at the next search, if there is to be one."""
        if not (self.hnsw and self._made) or self._graph:
            return
        self._run(
            "CREATE INDEX IF NOT EXISTS {graph} ON {table} USING hnsw (vector sparsevec_ip_ops) "
            "WITH (m = {m}, ef_construction = {ef})",
            m=self._psycopg.sql.Literal(self.m),
            ef=self._psycopg.sql.Literal(self.ef_construction),
        )
        self._graph = True

    def recall(self, queries: Any, k: int = 10, **options: Any) -> float:
        """Return the share of the exact results that a search finds.

        Parameters
        ----------
        queries : scipy sparse matrix or SparseCodes of shape (Q, n_features)
        k : int, default=10
        **options : object
            Of `search`.

        Returns
        -------
        float
            1 if there are no exact results.
        """
        return self.search(queries, k, **options).recall(self.search(queries, k, exact=True))

    def _connect(self) -> None:
        self._connection: Any = self._psycopg.connect(self._conninfo, autocommit=True)
        weakref.finalize(self, self._connection.close)
        try:
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
        except self._psycopg.Error as error:
            raise ValueError(
                "`conninfo` must lead to a database that has the extension vector, or lets it be "
                f"made; Postgres says: {str(error).splitlines()[0]}."
            ) from None
        version = self._run("SELECT extversion FROM pg_extension WHERE extname = 'vector'")[0][0]
        if tuple(map(int, version.split(".")[:2])) < (0, 8):
            raise ValueError(
                f"`conninfo` must lead to pgvector 0.8 or later; got {version}. "
                "Run ALTER EXTENSION vector UPDATE."
            )

    def _run(self, query: str, values: Sequence[Any] = (), **parts: Any) -> list[tuple[Any, ...]]:
        """Run one statement with values bound; return its rows, if any."""
        cursor = self._connection.execute(self._composed(query, **parts), values)
        return cursor.fetchall() if cursor.description else []

    def _composed(self, query: str, **parts: Any) -> Any:
        """Return a statement with its names quoted."""
        sql = self._psycopg.sql
        graph = self.table.encode()[: LONGEST_NAME - 5].decode(errors="ignore") + "_hnsw"
        names = {"table": sql.Identifier(self.table), "graph": sql.Identifier(graph)}
        return sql.SQL(query).format(**names, **parts)

    def _upsert(self, numbers: Sequence[int], rows: scipy.sparse.csr_matrix) -> None:
        matrix: Any = rows
        with self._connection.transaction():
            if not self._made:
                self._make()
            copying = self._composed("COPY {table} (number, vector) FROM STDIN")
            with self._connection.cursor().copy(copying) as copy:
                for row, number in enumerate(numbers):
                    own = slice(matrix.indptr[row], matrix.indptr[row + 1])
                    vector = self._vector(matrix.indices[own], matrix.data[own])
                    copy.write_row((number, vector))
        self._made = True

    def _make(self) -> None:
        """Make the table with the first row, and refuse one that is there."""
        try:
            self._run(
                "CREATE TABLE {table} (number bigint PRIMARY KEY, vector sparsevec({width}))",
                width=self._psycopg.sql.Literal(self.n_features),
            )
        except self._psycopg.errors.DuplicateTable:
            raise ValueError(
                f"`table` must be new; {self.table!r} is there already. "
                "Choose another name, or open the index with open_index."
            ) from None

    def _vector(self, dims: np.ndarray, weights: np.ndarray) -> str:
        """Return the text of a sparsevec, which counts from 1; 9 digits keep float32 exactly."""
        entries = zip((dims + 1).tolist(), weights.tolist(), strict=True)
        inside = ",".join([f"{dim}:{weight:.9g}" for dim, weight in entries])
        return f"{{{inside}}}/{self.n_features}"

    def _remove(self, numbers: Sequence[int]) -> None:
        if self._made:
            self._run("DELETE FROM {table} WHERE number = ANY(%s::bigint[])", [list(numbers)])

    def _find(
        self,
        dims: np.ndarray,
        weights: np.ndarray,
        limit: int,
        allowed: Sequence[int] | None,
        *,
        ef_search: int | None = None,
        exact: bool = False,
    ) -> list[tuple[int, float]]:
        ef = self.ef_search if ef_search is None else ef_search
        check_int("ef_search", ef, low=1, high=1000)
        if not self._made:
            return []
        values = {"query": self._vector(dims, weights), "limit": limit}
        among = "TRUE"
        if allowed is not None:
            values["allowed"] = list(allowed)
            among = "number = ANY(%(allowed)s::bigint[])"
        if exact or not self.hnsw:
            return self._rows(EXACT.replace("AMONG", among), values)
        self.optimize()
        with self._connection.transaction():
            self._run("SELECT set_config('hnsw.ef_search', %s, TRUE)", [str(ef)])
            self._run("SELECT set_config('hnsw.iterative_scan', 'strict_order', TRUE)")
            return self._rows(NEAREST.replace("AMONG", among), values)

    def _rows(self, query: str, values: dict[str, Any]) -> list[tuple[int, float]]:
        return self._connection.execute(self._composed(query), values).fetchall()

    def _count(self) -> int | None:
        """Return the number of rows in the table, None if there is none."""
        quoted = self._psycopg.sql.Identifier(self.table).as_string(self._connection)
        if self._run("SELECT to_regclass(%s)", [quoted]) == [(None,)]:
            return None
        return self._run("SELECT count(*) FROM {table}")[0][0]

    def _dump(self, folder: Path) -> None:
        io.write_json(folder / STATE, {"n_rows": self._count() if self._made else None})

    def _load(self, folder: Path) -> None:
        expected, n_rows = io.read_json(folder / STATE)["n_rows"], self._count()
        if expected is not None and n_rows != expected:
            raise io.CorruptFileError(
                f"`table` must have the {expected} rows of when the index was saved; "
                f"{self.table!r} has {n_rows or 0}. Make the index again."
            )
        self._made = expected is not None


# OFFSET 0 keeps Postgres from computing each product three times, and from using the graph.
EXACT = """
SELECT number, score FROM (
    SELECT number, -(vector <#> %(query)s::sparsevec) AS score FROM {table} WHERE AMONG OFFSET 0
) AS scored
WHERE score <> 0 ORDER BY score DESC LIMIT %(limit)s
"""
NEAREST = """
SELECT number, -(vector <#> %(query)s::sparsevec) FROM {table}
WHERE AMONG AND (vector <#> %(query)s::sparsevec) <> 0
ORDER BY vector <#> %(query)s::sparsevec LIMIT %(limit)s
"""
