"""What a search returns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class SearchResults:
    """The best documents of each query, best first.

    Equal scores have ascending ids. A query with fewer than k results has its last places empty:
    id -1 (None where ids are strings) and score -inf.
    """

    ids: np.ndarray
    """Ids, (Q, k): int64, or objects where ids are strings."""

    scores: np.ndarray
    """Scores, (Q, k), float32."""

    @property
    def n_found(self) -> np.ndarray:
        """Number of results of each query, (Q,)."""
        return (self.scores > -np.inf).sum(axis=1)

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.ids)

    def lists(self) -> list[list[tuple[Any, float]]]:
        """Return the results of each query as pairs of id and score, without empty places."""
        return [
            list(zip(ids[:n].tolist(), scores[:n].tolist(), strict=True))
            for ids, scores, n in zip(self.ids, self.scores, self.n_found, strict=True)
        ]

    def recall(self, exact: "SearchResults") -> float:
        """Return the share of the results of an exact search that are here too.

        Parameters
        ----------
        exact : SearchResults
            Of the same queries.

        Returns
        -------
        float
            1 if there are no exact results.
        """
        if len(self) != len(exact):
            raise ValueError(
                f"`exact` must be of the same {len(self)} queries; got {len(exact)} queries."
            )
        hits = sum(
            len({one for one, _ in mine} & {one for one, _ in theirs})
            for mine, theirs in zip(self.lists(), exact.lists(), strict=True)
        )
        n_exact = int(exact.n_found.sum())
        return hits / n_exact if n_exact else 1.0

    def to_run(self, query_ids: Iterable[Any]) -> dict[str, dict[str, float]]:
        """Return ``{query id: {document id: score}}``, all ids as strings, for `evaluate`.

        Parameters
        ----------
        query_ids : iterable of length Q

        Returns
        -------
        dict
        """
        names = [str(one) for one in query_ids]
        if len(names) != len(self):
            raise ValueError(
                f"`query_ids` must have one id for each of {len(self)} queries; got {len(names)}."
            )
        return {
            name: {str(document): score for document, score in found}
            for name, found in zip(names, self.lists(), strict=True)
        }


def from_lists(
    found: Sequence[Sequence[tuple[Any, float]]], k: int, *, text_ids: bool
) -> SearchResults:
    """Return results from pairs of id and score in any order: sorted, cut to k and filled up.

    Raises
    ------
    ValueError
        If a score is not finite in float32.
    """
    ids: np.ndarray = np.full(
        (len(found), k), None if text_ids else -1, object if text_ids else int
    )
    scores = np.full((len(found), k), -np.inf, np.float32)
    for query, pairs in enumerate(found):
        with np.errstate(over="ignore"):  # said below
            best = sorted(((np.float32(score), one) for one, score in pairs), key=_order)
        for score, one in best:
            if not np.isfinite(score):
                raise ValueError(
                    f"Scores must be finite; got {score} for document {one!r} of query {query}."
                )
        for place, (score, one) in enumerate(best[:k]):
            ids[query, place], scores[query, place] = one, score
    return SearchResults(ids, scores)


def _order(pair: tuple[np.float32, Any]) -> tuple[float, Any]:
    return -float(pair[0]), pair[1]
