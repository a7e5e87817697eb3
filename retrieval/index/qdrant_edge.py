"""Qdrant Edge: the engine of Qdrant inside the process, on disk, exact."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from retrieval.index.engine import AbstractEngineIndex, missing, temporary_folder
from retrieval.index.limits import Limits
from retrieval.index.pruning import Pruning

BATCH = 5000
FIELD = "sparse"


class QdrantEdgeIndex(AbstractEngineIndex):
    """Exact search by ``qdrant-edge-py``: Qdrant's inverted index, without a server.

    It works in a temporary folder; `save` copies it, `open_index` copies it back. Scores are
    float32.

    Parameters
    ----------
    n_features : int
        Number of dimensions, at most 2^32.
    prune : Pruning or None, default=None
        Applied to documents as they are added.
    """

    engine = "qdrant_edge"
    limits = Limits(name="Qdrant", n_features=2**32)

    def __init__(self, n_features: int, *, prune: Pruning | None = None) -> None:
        super().__init__(n_features, prune=prune)
        try:
            import qdrant_edge as q
        except ModuleNotFoundError:
            raise missing("qdrant-edge-py", "QdrantEdgeIndex", "engines") from None
        self._qdrant: Any = q
        self._place = temporary_folder(self) / "shard"
        self._place.mkdir()
        field = self._qdrant.EdgeSparseVectorParams(on_disk=False)
        config = self._qdrant.EdgeConfig(sparse_vectors={FIELD: field})
        self._shard: Any = self._qdrant.EdgeShard.create(str(self._place), config)

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without `prune`."""
        return {"n_features": self.n_features}

    def optimize(self) -> None:
        """Build the inverted index now, rather than leaving it to the engine."""
        self._shard.optimize()

    def _upsert(self, numbers: Sequence[int], rows: scipy.sparse.csr_matrix) -> None:
        q, matrix = self._qdrant, rows
        for start in range(0, len(numbers), BATCH):
            points = []
            for row in range(start, min(start + BATCH, len(numbers))):
                own = slice(matrix.indptr[row], matrix.indptr[row + 1])
                vector = q.SparseVector(matrix.indices[own].tolist(), matrix.data[own].tolist())
                points.append(q.Point(numbers[row], {FIELD: vector}, {}))
            self._shard.update(q.UpdateOperation.upsert_points(points))
        if len(numbers) >= BATCH:
            self.optimize()

    def _remove(self, numbers: Sequence[int]) -> None:
        self._shard.update(self._qdrant.UpdateOperation.delete_points(list(numbers)))

    def _find(
        self, dims: np.ndarray, weights: np.ndarray, limit: int, allowed: Sequence[int] | None
    ) -> list[tuple[int, float]]:
        q = self._qdrant
        vector = q.SparseVector(dims.tolist(), weights.tolist())
        among = None if allowed is None else q.Filter(must=[q.HasIdCondition(set(allowed))])
        nearest = q.Query.Nearest(vector, using=FIELD)
        request = q.QueryRequest(limit=limit, query=nearest, filter=among)
        return [(point.id, point.score) for point in self._shard.query(request)]

    def _dump(self, folder: Path) -> None:
        self._shard.flush()
        shutil.copytree(self._place, folder, dirs_exist_ok=True)

    def _load(self, folder: Path) -> None:
        self._shard.close()
        shutil.rmtree(self._place)
        shutil.copytree(folder, self._place)
        self._shard = self._qdrant.EdgeShard.load(str(self._place))
