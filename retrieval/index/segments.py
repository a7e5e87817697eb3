"""Segments: the immutable parts of an exact index."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import scipy.sparse

from sparsecode.ops.scoring import Postings

MOST_DOCUMENTS = 2**18
"""Documents of one segment: their scores, 1 MiB, stay in the cache of a core."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Documents in ascending order of their ids, so that the lower row is the lower id."""

    ids: np.ndarray
    """Ids, ascending, (N,): int64 or UTF-8 bytes."""

    postings: Postings
    """Their entries."""

    alive: np.ndarray | None = None
    """False for documents that were deleted, (N,); None while there are none."""

    @classmethod
    def from_rows(cls, rows: Any, ids: np.ndarray, values: str) -> Self:
        """Return a segment of canonical rows in any order."""
        order = np.argsort(ids, kind="stable")
        if not np.array_equal(order, np.arange(len(order))):
            rows, ids = rows[order], ids[order]
        return cls(ids, Postings.from_scipy(rows, values))

    def __len__(self) -> int:
        """Return the number of documents that are not deleted."""
        return len(self.ids) if self.alive is None else int(self.alive.sum())

    @property
    def nbytes(self) -> int:
        """Bytes of ids and entries."""
        return self.ids.nbytes + self.postings.nbytes

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each id, -1 where it is not here."""
        if not len(self.ids) or self.ids.dtype.kind != ids.dtype.kind:
            return np.full(len(ids), -1)
        places = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        found = self.ids[places] == ids
        if self.alive is not None:
            found &= self.alive[places]
        return np.where(found, places, -1)

    def allowed(self, ids: np.ndarray | None) -> np.ndarray | None:
        """Return which rows may be results, or None for all."""
        if ids is None:
            return self.alive
        mask = np.zeros(len(self.ids), bool)
        rows = self.rows_of(ids)
        mask[rows[rows >= 0]] = True
        return mask

    def without(self, ids: np.ndarray) -> Self:
        """Return the segment with documents marked as deleted."""
        rows = self.rows_of(ids)
        if not (rows >= 0).any():
            return self
        alive = np.ones(len(self.ids), bool) if self.alive is None else self.alive.copy()
        alive[rows[rows >= 0]] = False
        return replace(self, alive=alive)

    def document(self, row: int) -> scipy.sparse.csr_matrix:
        """Return what one row is scored with, (1, F)."""
        places = np.flatnonzero(self.postings.documents.numpy() == row)
        dims = np.searchsorted(self.postings.offsets.numpy(), places, side="right") - 1
        values = self.postings.values.numpy()[places].astype(np.float32)
        if self.postings.scales is not None:
            values *= self.postings.scales.numpy()[row]
        shape = (1, self.postings.width)
        return scipy.sparse.csr_matrix((values, dims, [0, len(dims)]), shape=shape)


def merged(segments: Sequence[Segment]) -> Segment:
    """Return one segment of what is alive; what is held of a document stays as it is."""
    keeps = [np.ones(len(s.ids), bool) if s.alive is None else s.alive for s in segments]
    ids = np.concatenate([s.ids[keep] for s, keep in zip(segments, keeps, strict=True)])
    parts = [s.postings.stored_rows()[keep] for s, keep in zip(segments, keeps, strict=True)]
    scales = [s.postings.scales for s in segments]
    order = np.argsort(ids, kind="stable")
    stacked: Any = scipy.sparse.vstack(parts, format="csr")
    kept = [
        scale.numpy()[keep] for scale, keep in zip(scales, keeps, strict=True) if scale is not None
    ]
    per_row = np.concatenate(kept)[order] if kept else None
    return Segment(
        ids[order], Postings.from_stored(stacked[order], segments[0].postings.dtype, per_row)
    )


def n_to_merge(sizes: Sequence[int]) -> int:
    """Return how many of the last segments become one, so that sizes stay geometric."""
    count, total = 1, sizes[-1]
    while count < len(sizes):
        before = sizes[-count - 1]
        if before >= 2 * total or before + total > MOST_DOCUMENTS:
            break
        count, total = count + 1, total + before
    return count
