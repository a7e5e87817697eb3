"""What an engine cannot hold or rank is refused before the engine sees it."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of an engine, each with its sentence."""

    name: str
    """Of the engine, for messages."""

    n_features: int | None = None
    """Most dimensions."""

    n_active: int | None = None
    """Most entries of a document or a query."""

    k: int | None = None
    """Most results of a query."""

    negative: bool = True
    """Whether weights below 0 are ranked by the dot product."""

    def check_width(self, n_features: int) -> None:
        """Refuse more dimensions than the engine has."""
        if self.n_features is not None and n_features > self.n_features:
            raise ValueError(
                f"`n_features` must be at most {self.n_features} for {self.name}; "
                f"got {n_features}. Use ExactIndex."
            )

    def check_k(self, k: int) -> None:
        """Refuse more results than the engine returns."""
        if self.k is not None and k > self.k:
            raise ValueError(
                f"`k` must be at most {self.k} for {self.name}; got {k}. Use ExactIndex."
            )

    def check_rows(self, name: str, rows: Any) -> None:
        """Refuse documents or queries that the engine cannot hold, or would rank wrongly."""
        below = np.flatnonzero(rows.data < 0)
        if len(below) and not self.negative:
            row = int(np.searchsorted(rows.indptr, below[0], side="right")) - 1
            raise ValueError(
                f"`{name}` must not have values below 0 for {self.name}; "
                f"got {rows.data[below[0]]} in row {row}. Use ExactIndex."
            )
        counts, most = np.diff(rows.indptr), self.n_active
        if most is not None and counts.max(initial=0) > most:
            raise ValueError(
                f"`{name}` must have at most {most} entries each for {self.name}; "
                f"got {counts.max()} in row {counts.argmax()}. Use prune=Pruning(k={most})."
            )
