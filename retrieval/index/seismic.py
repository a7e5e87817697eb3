"""Seismic: approximate search inside the process, for millions of learned sparse rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from retrieval.index.base import KeepsDocuments
from retrieval.index.engine import AbstractEngineIndex, missing
from retrieval.index.exact import ExactIndex
from retrieval.index.ids import check_ids, decode_ids
from retrieval.index.limits import Limits
from retrieval.index.pruning import Pruning
from sparsecode._checks import check_float, check_int

ROWS, ENGINE = "rows.npz", "engine"
SUFFIX = ".index.seismic"
SMALL_TYPE = 2**16
"""Dimensions that the engine's two-byte components can tell apart."""
SPARE = 10
"""Results asked for beyond the wanted ones, since the engine ranks by float16 values."""
FEW = 10
"""A filter that leaves less than one document in this many is searched exactly."""


class SeismicIndex(AbstractEngineIndex, KeepsDocuments):
    """Approximate search by ``pyseismic-lsr``.

    Posting lists are cut to their largest entries and clustered; a cluster whose summary promises
    too little is skipped. Results may therefore be missing, which `recall` measures; a document
    that is found has its exact score, from float32 rows that are held beside the engine (8 bytes
    an entry). On random rows like those of SPLADE (20,000 documents of 105 entries, 40 queries of
    21.5, ``n_postings=4000``) top-10 recall was 1.000, and 0.995 with the faster ``query_cut=10,
    heap_factor=0.9``; measure it on yours. With ``heap_factor=0`` and ``n_postings`` not below the
    number of documents the search is exact, but for what float16 does not tell apart at the end.

    The engine cannot change what it has built: after additions and deletions the next search, or
    `optimize`, builds it anew from all rows. It prints about that to standard output. Filters that
    leave few documents are searched exactly. Values below 0 are refused; those below 6e-8 of the
    largest of all are 0 to the engine, which looks at float16 values.

    `search` takes ``query_cut``, ``heap_factor`` and ``n_knn`` as options too, for one call.

    Parameters
    ----------
    n_features : int
        Number of dimensions.
    n_postings : int, default=3500
        Entries kept for each dimension, on average over the dimensions that occur.
    max_fraction : float, default=1.5
        At most ``max_fraction * n_postings`` entries are kept for one dimension.
    centroid_fraction : float, default=0.1
        Clusters of a list, as a share of its length.
    min_cluster_size : int, default=2
        Smaller clusters are given to others.
    summary_energy : float, default=0.4
        Share of the sum of a cluster's largest values that its summary keeps.
    doc_cut : int, default=15
        Entries of a document that are compared in clustering.
    nknn : int, default=0
        Neighbors to find for each document.
    num_threads : int, default=1
        Threads that build; 0 takes all.
    query_cut : int or None, default=None
        A search visits the lists of only so many of the largest entries of a query; None of all.
    heap_factor : float in [0, 1], default=0.7
        A search skips a cluster that promises less than this share of the k-th best score so far;
        0 skips none.
    n_knn : int, default=0
        A search looks at so many neighbors of each result too, at most `nknn`.
    prune : Pruning or None, default=None
        Applied to documents as they are added.

    References
    ----------
    Bruch et al. (2024), "Efficient Inverted Indexes for Approximate Retrieval over Learned Sparse
    Representations". arXiv:2404.18812.
    """

    engine = "seismic"
    limits = Limits(name="Seismic", negative=False)
    search_options = ("query_cut", "heap_factor", "n_knn")

    def __init__(
        self,
        n_features: int,
        *,
        n_postings: int = 3500,
        max_fraction: float = 1.5,
        centroid_fraction: float = 0.1,
        min_cluster_size: int = 2,
        summary_energy: float = 0.4,
        doc_cut: int = 15,
        nknn: int = 0,
        num_threads: int = 1,
        query_cut: int | None = None,
        heap_factor: float = 0.7,
        n_knn: int = 0,
        prune: Pruning | None = None,
    ) -> None:
        super().__init__(n_features, prune=prune)
        try:
            import seismic
        except ModuleNotFoundError:
            raise missing("pyseismic-lsr", "SeismicIndex", "seismic") from None
        share = {"low": 0, "high": 1, "open_low": True}
        self._settings = {
            "n_postings": check_int("n_postings", n_postings, low=1),
            "max_fraction": check_float("max_fraction", max_fraction, low=1),
            "centroid_fraction": check_float("centroid_fraction", centroid_fraction, **share),
            "min_cluster_size": check_int("min_cluster_size", min_cluster_size, low=1),
            "summary_energy": check_float("summary_energy", summary_energy, **share),
            "doc_cut": check_int("doc_cut", doc_cut, low=1),
            "nknn": check_int("nknn", nknn, low=0),
            "num_threads": check_int("num_threads", num_threads, low=0),
        }
        self._defaults = {"query_cut": query_cut, "heap_factor": heap_factor, "n_knn": n_knn}
        self._options(**self._defaults)  # refuses wrong ones now
        self._seismic: Any = seismic
        self._text = self._seismic.get_seismic_string()
        self._built: Any = None
        self._numbers = np.empty(0, np.int64)
        self._dims = np.empty(0, np.int64)  # those that occur
        self._rows: Any = scipy.sparse.csr_matrix((0, 0), dtype=np.float32)  # over these
        self._new: list[tuple[Sequence[int], Any]] = []
        self._gone: list[int] = []

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, without `prune`."""
        return {"n_features": self.n_features, **self._settings, **self._defaults}

    def optimize(self) -> None:
        """Build the engine's index now, rather than at the next search."""
        self._merge()
        if self._built is None and len(self._numbers):
            self._built = self._build()

    def document(self, one: int | str) -> scipy.sparse.csr_matrix:
        """Return the row that a document is scored with; see `KeepsDocuments`."""
        known = decode_ids(check_ids("one", [one], self.id_kind))[0]
        if known not in self._number_of:
            raise ValueError(f"`one` must be in the index; {one!r} is not.")
        self._merge()
        found: Any = self._wide(self._rows[self._places([self._number_of[known]])])
        shape = (1, self.n_features)
        return found if found.shape[0] else scipy.sparse.csr_matrix(shape, dtype=np.float32)

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
        self._merge()
        ids = [self._id_of[number] for number in self._numbers.tolist()]
        exact = ExactIndex(self.n_features).add(self._wide(self._rows), ids=ids)
        return self.search(queries, k, **options).recall(exact.search(queries, k))

    def _upsert(self, numbers: Sequence[int], rows: scipy.sparse.csr_matrix) -> None:
        self._new.append((numbers, rows))

    def _remove(self, numbers: Sequence[int]) -> None:
        self._gone.extend(numbers)

    def _merge(self) -> None:
        """Bring the rows up to date; what the engine built is then of no use."""
        if not (self._new or self._gone):
            return
        numbers = np.concatenate([self._numbers, *(part for part, _ in self._new)])
        parts = [self._wide(self._rows), *(part for _, part in self._new)]
        rows: Any = scipy.sparse.vstack(parts, "csr")
        if self._gone:
            kept = ~np.isin(numbers, self._gone)
            numbers, rows = numbers[kept], rows[kept]
        self._dims = np.unique(rows.indices)
        self._rows = self._over_dims(rows.data, rows.indices, rows.indptr)
        self._numbers = numbers.astype(np.int64)
        self._new, self._gone, self._built = [], [], None

    def _over_dims(self, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> Any:
        """Return rows over the dimensions that occur: the engine takes memory for each."""
        shape = (len(indptr) - 1, len(self._dims))
        parts = (data, np.searchsorted(self._dims, indices), indptr)
        return scipy.sparse.csr_matrix(parts, shape=shape)

    def _wide(self, rows: Any) -> Any:
        """Return rows over all dimensions."""
        parts = (rows.data, self._dims[rows.indices], rows.indptr)
        return scipy.sparse.csr_matrix(parts, shape=(rows.shape[0], self.n_features))

    def _build(self) -> Any:
        """Build over values that float16 can hold."""
        rows, small = self._rows, len(self._dims) <= SMALL_TYPE
        dataset = self._seismic.SeismicDataset() if small else self._seismic.SeismicDatasetLV()
        dataset.add_documents_by_id(
            list(map(str, range(len(self._numbers)))),
            rows.indices.astype(np.int64),
            rows.data / rows.data.max(),
            rows.indptr.astype(np.int64),
        )
        return self._kind_of_index().build_from_dataset(dataset, **self._settings)

    def _kind_of_index(self) -> Any:
        small = len(self._dims) <= SMALL_TYPE
        return self._seismic.SeismicIndex if small else self._seismic.SeismicIndexLV

    def _find(
        self,
        dims: np.ndarray,
        weights: np.ndarray,
        limit: int,
        allowed: Sequence[int] | None,
        **options: Any,
    ) -> list[tuple[int, float]]:
        settings = self._options(**{**self._defaults, **options})
        self.optimize()
        known = np.isin(dims, self._dims)
        if not known.any():
            return []
        columns, values = np.searchsorted(self._dims, dims[known]), weights[known]
        names, shares = columns.astype(self._text), values / values.max()

        def ask(n: int) -> np.ndarray:
            found = self._built.search("", names, shares, n, *settings)
            return np.array([int(name) for _, _, name in found], np.int64)

        places = ask(limit + SPARE) if allowed is None else self._allowed(allowed, limit, ask)
        return self._scored(places, columns, values, limit)

    def _options(
        self, query_cut: int | None, heap_factor: float, n_knn: int
    ) -> tuple[int, float, int]:
        """Return what the engine's search takes, checked."""
        return (
            self.n_features if query_cut is None else check_int("query_cut", query_cut, low=1),
            check_float("heap_factor", heap_factor, low=0, high=1),
            check_int("n_knn", n_knn, low=0, high=self._settings["nknn"]),
        )

    def _allowed(self, allowed: Sequence[int], limit: int, ask: Any) -> np.ndarray:
        """Return candidates among allowed documents: all of few, else enough of those found."""
        among, total = self._places(allowed), len(self._numbers)
        if len(among) * FEW < total:
            return among
        n = (limit + SPARE) * total // len(among)
        while True:
            found = ask(n)
            places = found[np.isin(found, among)]
            if len(places) >= limit or len(found) < n:
                return places
            n *= 4

    def _scored(
        self, places: np.ndarray, columns: np.ndarray, values: np.ndarray, limit: int
    ) -> list[tuple[int, float]]:
        """Return the best candidates with exact scores."""
        query = np.zeros(len(self._dims))
        query[columns] = values
        scores = self._rows[places] @ query
        best = np.argsort(-scores, kind="stable")[:limit]
        best = best[scores[best] > 0]  # a neighbor or an allowed document may share nothing
        return list(zip(self._numbers[places[best]].tolist(), scores[best].tolist(), strict=True))

    def _places(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the rows of numbers, without those of documents that have no entry."""
        wanted = np.asarray(numbers, np.int64)
        places = np.searchsorted(self._numbers, wanted)
        inside = places < len(self._numbers)
        places, wanted = places[inside], wanted[inside]
        return places[self._numbers[places] == wanted]

    def _dump(self, folder: Path) -> None:
        self.optimize()
        rows = self._wide(self._rows)
        parts = {"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}
        np.savez(folder / ROWS, numbers=self._numbers, **parts)
        if self._built is not None:
            self._built.save(str(folder / ENGINE))

    def _load(self, folder: Path) -> None:
        with np.load(folder / ROWS, allow_pickle=False) as held:
            self._numbers, self._dims = held["numbers"], np.unique(held["indices"])
            self._rows = self._over_dims(held["data"], held["indices"], held["indptr"])
        if len(self._numbers):
            self._built = self._kind_of_index().load(str(folder / f"{ENGINE}{SUFFIX}"))
