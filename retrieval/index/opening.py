"""Opening what `save` wrote, whichever engine it was."""

from pathlib import Path
from typing import Any

from retrieval.index.base import AbstractIndex
from retrieval.index.exact import ExactIndex
from retrieval.index.milvus import MilvusIndex
from retrieval.index.pgvector import PgvectorIndex
from retrieval.index.qdrant import QdrantIndex
from retrieval.index.qdrant_edge import QdrantEdgeIndex
from retrieval.index.seismic import SeismicIndex
from retrieval.index.sharded import ShardedIndex
from retrieval.index.storage import MANIFEST
from sparsecode import io
from sparsecode._checks import near_matches

INDEXES: dict[str, Any] = {
    "exact": ExactIndex,
    "sharded": ShardedIndex,
    "qdrant_edge": QdrantEdgeIndex,
    "qdrant": QdrantIndex,
    "milvus": MilvusIndex,
    "pgvector": PgvectorIndex,
    "seismic": SeismicIndex,
}
"""Engines that keep an index in a folder, by the name in its ``index.json``."""


def open_index(path: str | Path, **options: Any) -> AbstractIndex:
    """Open an index from the folder that `save` wrote.

    Parameters
    ----------
    path : path
    **options : object
        Of the ``open`` of its class; for `ExactIndex` these are ``verify=True``, which compares the
        checksum of every file, and ``n_threads=1``.

    Returns
    -------
    AbstractIndex

    Raises
    ------
    FileNotFoundError
        If there is no index.
    CorruptFileError
        If a file is not what was written; it is named.

    Examples
    --------
    >>> import scipy.sparse, tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "index"
    >>> ExactIndex(2).add(scipy.sparse.csr_matrix([[1.0, 0], [0, 2]])).save(folder)
    >>> open_index(folder).search(scipy.sparse.csr_matrix([[0.0, 3]]), k=1).lists()
    [[(1, 6.0)]]
    """
    engine = io.read_json(Path(path) / MANIFEST).get("engine")
    if engine not in INDEXES:
        raise ValueError(
            f"`path` must hold an index of an engine in {sorted(INDEXES)}; got {engine!r}."
            + near_matches(str(engine), sorted(INDEXES))
        )
    return INDEXES[engine].open(path, **options)
