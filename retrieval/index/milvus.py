"""Milvus by its client: a local file of milvus-lite, a server, a cluster, or Zilliz Cloud."""

import shutil
import weakref
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import scipy.sparse

from retrieval.index.engine import AbstractEngineIndex, missing, temporary_folder
from retrieval.index.limits import Limits
from retrieval.index.pruning import Pruning
from sparsecode import io

ROWS, ENTRIES = 1000, 500_000
"""Most rows and entries (but at least one row) in one request: a few of its 64 MB."""
FILTER = 10_000
"""Most documents in one filter; more are searched in parts."""
NUMBER, VECTOR = "number", "vector"
DATABASE, STATE = "milvus.db", "state.json"


class MilvusIndex(AbstractEngineIndex):
    """Exact search by a collection of Milvus, through ``pymilvus``.

    The collection is made here and must be new: sparse float vectors under an inverted index,
    inner products, no entry of a query dropped, strong consistency, so that a search sees every
    addition. Names of documents stay here: `save` writes them, and the rows too with ``uri=None``;
    otherwise the rows stay where Milvus keeps them, and `open_index` connects to them again.
    Scores are float32. Values below 0 are refused, as Milvus does. Where more than 16,384 documents
    tie for the last place, which of them are results does not go by id. milvus-lite
    scores in Python and is meant for tests.

    Parameters
    ----------
    n_features : int
        Number of dimensions, below 2^32.
    uri : str or None, default=None
        Address of a server, such as ``"http://localhost:19530"``, or path of a file of milvus-lite,
        which ends in ``.db``. None takes a file of milvus-lite that goes with this object.
    token : str or None, default=None
        ``"user:password"`` or a key, of a server that asks for one. It is not saved: give it to
        `open_index` again.
    collection : str, default="sparsecode"
        Name of the collection.
    prune : Pruning or None, default=None
        Applied to documents as they are added.
    """

    engine = "milvus"
    limits = Limits(name="Milvus", n_features=2**32 - 1, k=2**14 - 1, negative=False)

    def __init__(
        self,
        n_features: int,
        *,
        uri: str | None = None,
        token: str | None = None,
        collection: str = "sparsecode",
        prune: Pruning | None = None,
    ) -> None:
        super().__init__(n_features, prune=prune)
        try:
            import pymilvus
        except ModuleNotFoundError:
            raise missing("pymilvus", "MilvusIndex", "milvus") from None
        if uri is not None and "@" in urlsplit(uri).netloc:
            raise ValueError(
                "`uri` must not have a password in it, since `save` writes it; got one. "
                "Give it as `token`."
            )
        if uri is None and find_spec("milvus_lite") is None:
            raise missing("milvus-lite", "MilvusIndex without `uri`", "milvus")
        self.uri, self.collection = uri, collection
        self._token = token
        self._milvus: Any = pymilvus
        self._own = temporary_folder(self) / DATABASE if uri is None else None
        self._made = False
        self._connect()

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without `token` and `prune`."""
        return {"n_features": self.n_features, "uri": self.uri, "collection": self.collection}

    def _connect(self) -> None:
        address = self.uri if self._own is None else str(self._own)
        self._client: Any = self._milvus.MilvusClient(uri=address, token=self._token or "")
        self._release = weakref.finalize(self, _release, self._client, self._own)

    def _upsert(self, numbers: Sequence[int], rows: scipy.sparse.csr_matrix) -> None:
        self._make()
        matrix: Any = rows
        for part in _parts(matrix.indptr):
            self._client.insert(
                self.collection,
                [
                    {NUMBER: numbers[row], VECTOR: _vector(matrix.indices[own], matrix.data[own])}
                    for row in range(part.start, part.stop)
                    for own in [slice(matrix.indptr[row], matrix.indptr[row + 1])]
                ],
            )

    def _make(self) -> None:
        """Make the collection before the first row, and refuse one that is there."""
        if self._made:
            return
        if self._client.has_collection(self.collection):
            raise ValueError(
                f"`collection` must be new; {self.collection!r} is at `{self.uri}` already. "
                "Choose another name, or open the index with open_index."
            )
        types = self._milvus.DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(NUMBER, types.INT64, is_primary=True)
        schema.add_field(VECTOR, types.SPARSE_FLOAT_VECTOR)
        index = self._client.prepare_index_params()
        index.add_index(
            VECTOR,
            index_type="SPARSE_INVERTED_INDEX",
            metric_type="IP",
            params={"inverted_index_algo": "DAAT_MAXSCORE"},
        )
        self._client.create_collection(
            self.collection, schema=schema, index_params=index, consistency_level="Strong"
        )
        self._made = True

    def _remove(self, numbers: Sequence[int]) -> None:
        for start in range(0, len(numbers) if self._made else 0, FILTER):
            self._client.delete(self.collection, ids=list(numbers[start : start + FILTER]))

    def _find(
        self,
        dims: np.ndarray,
        weights: np.ndarray,
        limit: int,
        allowed: Sequence[int] | None,
        **options: Any,
    ) -> list[tuple[int, float]]:
        if not self._made:
            return []
        query = _vector(dims, weights)
        if allowed is None:
            return self._ask(query, limit, "")
        pairs = []
        for start in range(0, len(allowed), FILTER):
            among = f"{NUMBER} in {list(allowed[start : start + FILTER])}"
            pairs += self._ask(query, limit, among)
        return sorted(pairs, key=lambda pair: -pair[1])[:limit]

    def _ask(self, query: dict[int, float], limit: int, among: str) -> list[tuple[int, float]]:
        found = self._client.search(
            self.collection,
            data=[query],
            anns_field=VECTOR,
            limit=limit,
            filter=among,
            output_fields=[NUMBER],
            search_params={"metric_type": "IP", "params": {"drop_ratio_search": 0.0}},
        )
        return [(hit[NUMBER], hit["distance"]) for hit in found[0]]

    def _count(self) -> int:
        """Return the number of rows that Milvus holds."""
        if not self._client.has_collection(self.collection):
            return 0
        self._client.load_collection(self.collection)
        found = self._client.query(self.collection, filter="", output_fields=["count(*)"])
        return found[0]["count(*)"]

    def _dump(self, folder: Path) -> None:
        io.write_json(folder / STATE, {"n_rows": self._count()})
        if self._own is not None and self._made:
            self._release()
            shutil.copytree(self._own, folder / DATABASE)
            self._connect()
            self._client.load_collection(self.collection)

    def _load(self, folder: Path) -> None:
        if self._own is not None and (folder / DATABASE).exists():
            self._release()
            shutil.rmtree(self._own)
            shutil.copytree(folder / DATABASE, self._own)
            self._connect()
        self._made = self._client.has_collection(self.collection)
        expected, n_rows = io.read_json(folder / STATE)["n_rows"], self._count()
        if n_rows != expected:
            raise io.CorruptFileError(
                f"`collection` must have the {expected} rows of when the index was saved; "
                f"{self.collection!r} has {n_rows}. Make the index again."
            )


def _vector(dims: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    return dict(zip(dims.tolist(), weights.tolist(), strict=True))


def _parts(indptr: np.ndarray) -> Iterator[range]:
    """Return runs of rows that fit in one request."""
    start, n_rows = 0, len(indptr) - 1
    while start < n_rows:
        fits = int(np.searchsorted(indptr, indptr[start] + ENTRIES, side="right")) - 1
        stop = min(max(fits, start + 1), start + ROWS, n_rows)
        yield range(start, stop)
        start = stop


def _release(client: Any, own: Path | None) -> None:
    """Disconnect, and stop the server of a file of our own."""
    client.close()
    if own is not None:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(own))
