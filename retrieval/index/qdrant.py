"""Qdrant by its client: a server, a cluster, or the client's own local mode."""

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

BATCH = 500
FIELD, STATE = "sparse", "state.json"
MEMORY = ":memory:"


class QdrantIndex(AbstractEngineIndex):
    """Exact search by a collection of Qdrant, through ``qdrant-client``.

    The collection is made here and must be new. Names of documents stay here: `save` writes them,
    and the rows too where Qdrant runs in the client's memory; otherwise the rows stay where Qdrant
    keeps them, and `open_index` connects to them again. The local mode of the client scores in
    Python and is meant for tests.

    Parameters
    ----------
    n_features : int
        Number of dimensions, at most 2^32.
    location : str, default=":memory:"
        Address of a server, such as ``"http://localhost:6333"``, or ``":memory:"``.
    api_key : str or None, default=None
        Of a server that asks for one. It is not saved: give it to `open_index` again.
    collection : str, default="sparsecode"
        Name of the collection.
    timeout : int, default=60
        Seconds to wait for an answer of a server.
    prune : Pruning or None, default=None
        Applied to documents as they are added.
    """

    engine = "qdrant"
    limits = Limits(name="Qdrant", n_features=2**32)

    def __init__(
        self,
        n_features: int,
        *,
        location: str = MEMORY,
        api_key: str | None = None,
        collection: str = "sparsecode",
        timeout: int = 60,
        prune: Pruning | None = None,
    ) -> None:
        super().__init__(n_features, prune=prune)
        try:
            import qdrant_client.models
        except ModuleNotFoundError:
            raise missing("qdrant-client", "QdrantIndex", "engines") from None
        self.location, self.collection = location, collection
        self.timeout = check_int("timeout", timeout, low=1)
        self._models: Any = qdrant_client.models
        options: dict[str, Any] = {}
        if location != MEMORY:  # the check of versions warns from a thread of its own: off
            options = {"api_key": api_key, "timeout": timeout, "check_compatibility": False}
        self._client: Any = qdrant_client.QdrantClient(location=location, **options)
        self._made = False

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without `api_key` and `prune`."""
        return {
            "n_features": self.n_features,
            "location": self.location,
            "collection": self.collection,
            "timeout": self.timeout,
        }

    def _upsert(self, numbers: Sequence[int], rows: scipy.sparse.csr_matrix) -> None:
        self._make()
        for start in range(0, len(numbers), BATCH):
            points = [
                self._models.PointStruct(
                    id=numbers[row], vector=self._vector(rows, row), payload={}
                )
                for row in range(start, min(start + BATCH, len(numbers)))
            ]
            self._client.upsert(self.collection, points, wait=True)

    def _make(self) -> None:
        """Make the collection before the first point, and refuse one that is there."""
        if self._made:
            return
        if self._client.collection_exists(self.collection):
            raise ValueError(
                f"`collection` must be new; {self.collection!r} is at `{self.location}` already. "
                "Choose another name, or open the index with open_index."
            )
        params = {FIELD: self._models.SparseVectorParams()}
        self._client.create_collection(self.collection, {}, sparse_vectors_config=params)
        self._made = True

    def _vector(self, rows: Any, row: int) -> dict[str, Any]:
        own = slice(rows.indptr[row], rows.indptr[row + 1])
        return {FIELD: self._sparse(rows.indices[own], rows.data[own])}

    def _sparse(self, dims: np.ndarray, weights: np.ndarray) -> Any:
        return self._models.SparseVector(indices=dims.tolist(), values=weights.tolist())

    def _remove(self, numbers: Sequence[int]) -> None:
        if self._made:
            points = self._models.PointIdsList(points=list(numbers))
            self._client.delete(self.collection, points, wait=True)

    def _find(
        self, dims: np.ndarray, weights: np.ndarray, limit: int, allowed: Sequence[int] | None
    ) -> list[tuple[int, float]]:
        if not self._made:
            return []
        among = None
        if allowed is not None:
            among = self._models.Filter(must=[self._models.HasIdCondition(has_id=list(allowed))])
        found = self._client.query_points(
            self.collection,
            query=self._sparse(dims, weights),
            using=FIELD,
            query_filter=among,
            limit=limit,
            with_payload=False,
        )
        return [(point.id, point.score) for point in found.points]

    def _count(self) -> int:
        """Return the number of rows that Qdrant holds."""
        if not self._client.collection_exists(self.collection):
            return 0
        return self._client.count(self.collection, exact=True).count

    def _dump(self, folder: Path) -> None:
        if self.location != MEMORY:
            io.write_json(folder / STATE, {"n_rows": self._count()})
            return
        if not self._made:
            return
        ids, vectors = [], []
        for number in self._id_of:
            for point in self._client.retrieve(self.collection, [number], with_vectors=True):
                ids.append(point.id)
                vectors.append(point.vector[FIELD])
        dims = np.array([dim for vector in vectors for dim in vector.indices], np.int64)
        values = np.array([value for vector in vectors for value in vector.values], np.float32)
        indptr = np.cumsum([0, *(len(vector.indices) for vector in vectors)])
        arrays = {"numbers": np.array(ids, np.int64), "dims": dims, "values": values}
        np.savez(folder / "rows.npz", indptr=indptr, **arrays)

    def _load(self, folder: Path) -> None:
        if self.location != MEMORY:
            self._made = self._client.collection_exists(self.collection)
            expected, n_rows = io.read_json(folder / STATE)["n_rows"], self._count()
            if n_rows != expected:
                raise io.CorruptFileError(
                    f"`collection` must have the {expected} rows of when the index was saved; "
                    f"{self.collection!r} has {n_rows}. Make the index again."
                )
        elif (folder / "rows.npz").exists():
            with np.load(folder / "rows.npz", allow_pickle=False) as held:
                shape = (len(held["numbers"]), self.n_features)
                parts = (held["values"], held["dims"], held["indptr"])
                rows: Any = scipy.sparse.csr_matrix(parts, shape=shape)
                self._upsert(held["numbers"].tolist(), rows)
