"""The exact index: posting lists in memory or memory-mapped from disk."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse

from retrieval.index import storage
from retrieval.index.base import AbstractIndex, KeepsDocuments
from retrieval.index.ids import IdKind, check_ids, decode_ids, kind_of
from retrieval.index.pruning import Pruning
from retrieval.index.results import SearchResults
from retrieval.index.segments import MOST_DOCUMENTS, Segment, merged, n_to_merge
from retrieval.index.storage import StoredSegment
from sparsecode import io
from sparsecode._checks import check_choice, check_int
from sparsecode.ops.scoring import Queries, score_candidates, score_topk_arrays
from sparsecode.ops.scoring.postings import DTYPES


class ExactIndex(AbstractIndex, KeepsDocuments):
    """Exact search over posting lists, without a server and without further packages.

    Scores are those of ``queries @ documents.T`` for the values held, added in float64. Several
    threads may search one index, also while one adds to it: each search sees the index as it was
    between two changes. Parts of up to 3,145,728 entries also have them as float64 after the first
    search, at 12 bytes each, which `nbytes` does not count.

    `search` has the options ``first_terms`` and ``n_candidates``: with both, only the
    ``first_terms`` largest entries of a query find some ``n_candidates`` documents, which are
    scored with all of them (two-phase search); scores are exact, but results may be missing.
    `recall` measures that. Exact search reads an entry in about a nanosecond, so this is worth it
    only where queries are long and a few entries are most of their weight. At 200,000 documents of
    250 entries and queries of 60, with log-normal weights, 12 terms and 20 candidates take 0.6 of
    the time at a recall of 0.97; at 105 and 21.5 entries 8 terms take about 0.9 of it at 0.98. With
    weights that differ little (recall 0.69) exact search is the better choice at these sizes.

    Parameters
    ----------
    n_features : int
        Number of dimensions.
    values : {"float32", "float16", "uint8"}, default="float32"
        How values are held, at 8, 6 or 5 bytes for each entry. float16 has a relative error of at
        most 2^-11, and an absolute one of 2^-25 where that is more; uint8, for values that are not
        negative, an absolute one of at most ``max / 510`` with the largest value of the document.
        A score is off by at most the sum of ``|q|`` times these over the dimensions in common.
    path : path or None, default=None
        New or empty folder in which every addition and deletion is, complete, when the call
        returns. None keeps the index in memory; `save` writes it.
    prune : Pruning or None, default=None
        Applied to documents as they are added.
    n_threads : int, default=1
        Threads among which the queries of one call are shared out.

    Examples
    --------
    >>> documents = scipy.sparse.csr_matrix([[1.0, 0, 2], [0, 3, 0], [2, 0, 0]])
    >>> index = ExactIndex(3).add(documents, ids=["a", "b", "c"])
    >>> index.search(scipy.sparse.csr_matrix([[1.0, 0, 1]]), k=2).lists()
    [[('a', 3.0), ('c', 2.0)]]
    """

    engine = storage.ENGINE

    def __init__(
        self,
        n_features: int,
        *,
        values: str = "float32",
        path: str | Path | None = None,
        prune: Pruning | None = None,
        n_threads: int = 1,
    ) -> None:
        super().__init__(n_features, prune=prune)
        self.values = check_choice("values", values, tuple(DTYPES))
        self.n_threads = check_int("n_threads", n_threads, low=1)
        self.path: Path | None = None
        self._stored: list[StoredSegment] = []
        self._kind: IdKind | None = None
        self._unused = self._generation = self._next_segment = 0
        if path is not None:
            storage.check_target(Path(path), overwrite=False)
            self.path = Path(path)
            with io.only_writer(self.path):
                self._commit([], None, 0, 0)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True, n_threads: int = 1) -> Self:
        """Open a folder that `save` or an index with a `path` wrote; nothing is read into memory.

        Parameters
        ----------
        path : path
        verify : bool, default=True
            Compare the SHA-256 of every file, which reads them once.
        n_threads : int, default=1

        Returns
        -------
        ExactIndex
            Additions and deletions are written to the folder.

        Raises
        ------
        CorruptFileError
            If a file is missing, truncated or changed; it is named.
        """
        folder = Path(path)
        manifest, stored = storage.read_index(folder, verify=verify)
        rules = manifest["prune"]
        index = cls(
            manifest["n_features"],
            values=manifest["values"],
            prune=None if rules is None else Pruning(**rules),
            n_threads=n_threads,
        )
        index.path, index._kind = folder, manifest["id_kind"]
        index._unused, index._generation = manifest["next_id"], manifest["generation"]
        index._next_segment = manifest["next_segment"]
        index._stored = stored
        return index

    @property
    def id_kind(self) -> IdKind | None:
        """Whether ids are "int" or "str"; None until there was a document."""
        return self._kind

    @property
    def ids(self) -> list[Any]:
        """Ids of all documents, ascending."""
        alive = [s.ids if s.alive is None else s.ids[s.alive] for s in self._segments]
        return decode_ids(np.sort(np.concatenate(alive))) if alive else []

    @property
    def nbytes(self) -> int:
        """Bytes of all ids and entries, in memory or mapped."""
        return sum(segment.nbytes for segment in self._segments)

    def __len__(self) -> int:
        """Return the number of documents."""
        return sum(len(segment) for segment in self._segments)

    def document(self, one: int | str) -> scipy.sparse.csr_matrix:
        """Return the row that a document is scored with; see `KeepsDocuments`."""
        known = check_ids("one", [one], self.id_kind)
        for segment in self._segments:
            row = int(segment.rows_of(known)[0])
            if row >= 0:
                return segment.document(row)
        raise ValueError(f"`one` must be in the index; {one!r} is not.")

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the index to a folder; see `AbstractIndex.save`. It stays where it was itself."""
        folder = Path(path)
        if self.path is not None and folder.resolve() == self.path.resolve():
            return
        storage.check_target(folder, overwrite=overwrite)
        with io.only_writer(folder):
            number, generation = 0, 1
            if (folder / storage.MANIFEST).exists():
                old = storage.read_manifest(folder)
                number, generation = old["next_segment"], old["generation"] + 1
            stored = [
                storage.write_segment(folder, number + place, segment)
                for place, segment in enumerate(self._segments)
            ]
            state = (self._kind, self._unused, number + len(stored), generation)
            storage.write_manifest(folder, self._manifest(stored, *state))

    def recall(self, queries: Any, k: int = 10, **options: Any) -> float:
        """Return the share of the exact results that a search with `options` finds.

        Parameters
        ----------
        queries : scipy sparse matrix or SparseCodes of shape (Q, n_features)
        k : int, default=10
        **options : object
            Of `search`, such as ``first_terms=10, n_candidates=100`` or ``prune=...``.

        Returns
        -------
        float
            1 if there are no exact results.
        """
        exact, found = self.search(queries, k), self.search(queries, k, **options)
        hits = sum(
            len({one for one, _ in mine} & {one for one, _ in theirs})
            for mine, theirs in zip(found.lists(), exact.lists(), strict=True)
        )
        return hits / int(exact.n_found.sum()) if exact.n_found.sum() else 1.0

    @property
    def _segments(self) -> list[Segment]:
        return [one.segment for one in self._stored]

    def _contains(self, ids: np.ndarray) -> np.ndarray:
        found = np.zeros(len(ids), bool)
        for segment in self._segments:
            found |= segment.rows_of(ids) >= 0
        return found

    def _next_id(self) -> int:
        return self._unused

    def _add(self, rows: scipy.sparse.csr_matrix, ids: np.ndarray) -> None:
        kind = kind_of(ids)
        unused = max(self._unused, int(ids.max()) + 1) if kind == "int" else 0
        stored, number = list(self._stored), self._next_segment
        with self._writing():
            for start in range(0, len(ids), MOST_DOCUMENTS):
                part = slice(start, start + MOST_DOCUMENTS)
                new = Segment.from_rows(rows[part], ids[part], self.values)
                count = n_to_merge([*(len(one.segment) for one in stored), len(new)])
                if count > 1:
                    new = merged([*(one.segment for one in stored[len(stored) - count + 1 :]), new])
                stored[len(stored) - count + 1 :] = [self._written(number, new)]
                number += 1
            self._commit(stored, kind, unused, number)

    def _delete(self, ids: np.ndarray) -> None:
        stored = []
        with self._writing():
            number = self._next_segment
            for one in self._stored:
                segment = one.segment.without(ids)
                if segment is one.segment:
                    stored.append(one)
                elif 2 * len(segment) < len(segment.ids):  # mostly dead: write it anew
                    if len(segment):
                        stored.append(self._written(number, merged([segment])))
                        number += 1
                elif self.path is None:
                    stored.append(StoredSegment(segment, {}))
                else:
                    stored.append(
                        storage.write_alive(self.path, one, segment, self._generation + 1)
                    )
            self._commit(stored, self._kind, self._unused, number)

    def _search(
        self,
        queries: Any,
        k: int,
        allowed: np.ndarray | None,
        *,
        first_terms: int | None = None,
        n_candidates: int | None = None,
    ) -> SearchResults:
        if (first_terms is None) != (n_candidates is None):
            raise ValueError(
                "`first_terms` and `n_candidates` must be given together; got one of them."
            )
        if first_terms is not None:
            check_int("first_terms", first_terms, low=1)
            n_candidates = check_int("n_candidates", n_candidates, low=k)
        segments = [(segment, segment.allowed(allowed)) for segment in self._segments]

        def search_part(part: Any) -> tuple[np.ndarray, np.ndarray]:
            return self._search_part(part, k, segments, first_terms, n_candidates)

        n_parts = min(self.n_threads, queries.shape[0])
        if n_parts < 2:
            return SearchResults(*search_part(queries))
        edges = np.linspace(0, queries.shape[0], n_parts + 1).astype(int)
        with ThreadPoolExecutor(n_parts) as pool:
            found = list(pool.map(search_part, (queries[a:b] for a, b in pairwise(edges))))
        ids, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        return SearchResults(ids, scores)

    def _search_part(
        self,
        queries: Any,
        k: int,
        segments: Sequence[tuple[Segment, np.ndarray | None]],
        first_terms: int | None,
        n_candidates: int | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        codes = Queries.from_canonical(queries)
        heaviest = codes if first_terms is None else codes.heaviest(first_terms)
        all_ids, all_scores = [], []
        for segment, allowed in segments:
            if first_terms is None or n_candidates is None:
                scores, rows = score_topk_arrays(codes, segment.postings, k, allowed)
            else:
                scores, rows = score_candidates(
                    codes, heaviest, segment.postings, n_candidates, allowed
                )
            all_scores.append(scores)
            all_ids.append(segment.ids.take(rows, mode="clip"))
        if not all_ids:
            shape = (len(codes), k)
            return self._named(np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32))
        if len(all_ids) == 1 and first_terms is None:
            return self._named(all_ids[0], all_scores[0])
        all_ids.append(np.zeros((len(codes), k), all_ids[0].dtype))  # there are k places
        all_scores.append(np.full((len(codes), k), -np.inf, np.float32))
        ids, scores = np.concatenate(all_ids, 1), np.concatenate(all_scores, 1)
        order = np.lexsort((ids, -scores), axis=1)[:, :k]
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
        return self._named(ids, scores)

    def _named(self, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids as users know them, with empty places."""
        if self._kind != "str":
            if scores.size and scores[:, -1].min() == -np.inf:
                ids[scores == -np.inf] = -1
            return ids, scores
        found = scores > -np.inf
        named = np.full(ids.shape, None, object)
        named[found] = decode_ids(ids[found])
        return named, scores

    def _written(self, number: int, segment: Segment) -> StoredSegment:
        if self.path is None:
            return StoredSegment(segment, {})
        return storage.write_segment(self.path, number, segment)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the folder, if there is one, and see that nobody else has changed it."""
        if self.path is None:
            yield
            return
        with io.only_writer(self.path):
            generation = storage.read_manifest(self.path)["generation"]
            if generation != self._generation:
                raise ValueError(
                    f"`path` must be as this index left it; `{self.path}` was changed by another "
                    "writer. Open it again with open_index."
                )
            yield

    def _commit(
        self, stored: list[StoredSegment], kind: IdKind | None, unused: int, next_segment: int
    ) -> None:
        """Make the new state that of the folder, and then of this object."""
        state = (kind, unused, next_segment, self._generation + 1)
        if self.path is not None:
            storage.write_manifest(self.path, self._manifest(stored, *state))
        self._stored = stored
        self._kind, self._unused, self._next_segment, self._generation = state

    def _manifest(
        self,
        stored: list[StoredSegment],
        kind: IdKind | None,
        unused: int,
        next_segment: int,
        generation: int,
    ) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "version": storage.VERSION,
            "n_features": self.n_features,
            "values": self.values,
            "prune": None if self.prune is None else self.prune.config(),
            "id_kind": kind,
            "next_id": unused,
            "generation": generation,
            "next_segment": next_segment,
            "segments": [dict(one.entry) for one in stored],
        }
