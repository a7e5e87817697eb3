"""Several hookpoints as one: the same rows, their activations side by side."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.cache.base import ROW_MASK, AbstractSource, ranges
from sae.cache.format import to_bits
from sae.cache.reader import Cache
from sae.cache.statistics import RowStatistics

_COMPARED = 2**20  # rows whose tokens are compared at a time


def join(caches: Sequence[Cache]) -> "JoinedSource":
    """Put the activations of several hookpoints side by side, row by row.

    The hookpoints may be of one cache, or of several caches that were written from the same tokens,
    such as those of two models with one tokenizer. A row of the result is what each of them has
    for one token, in the given order: what `Transcoder` (input, target) and `Crosscoder` train on.

    Parameters
    ----------
    caches : sequence of Cache
        At least two, opened at the same split.

    Returns
    -------
    JoinedSource

    Raises
    ------
    TypeError
        If one is no `Cache`.
    ValueError
        If rows, tokens, splits or dtypes differ.

    Examples
    --------
    ::

        cache = sae.cache.open("acts/", "layers.5.mlp_in")
        both = sae.cache.join([cache, cache.at("layers.5.mlp_out")])
    """
    parts = list(caches)
    for part in parts:
        if not isinstance(part, Cache):
            raise TypeError(
                f"`caches` must hold caches of sae.cache.open; got {type(part).__name__}."
            )
    if len(parts) < 2:
        raise ValueError(f"`caches` must hold at least two caches; got {len(parts)}.")
    for other in parts[1:]:
        _check_match(parts[0], other)
    return JoinedSource(parts)


class JoinedSource(AbstractSource):
    """Rows of several hookpoints side by side; made by `join`.

    Parameters
    ----------
    parts : sequence of Cache
        That match.

    Attributes
    ----------
    parts : list of Cache
        In the order of the columns.
    widths : list of int
        Columns of each.
    hookpoint : str
        Their hookpoints, joined by "+".
    """

    def __init__(self, parts: Sequence[Cache]) -> None:
        self.parts = list(parts)
        self.widths = [part.n_features for part in parts]
        self.n_features = sum(self.widths)
        self.hookpoint = "+".join(part.hookpoint for part in parts)
        self.dtype, self.split = parts[0].dtype, parts[0].split
        self.heldout_fraction = parts[0].heldout_fraction
        self._ends = parts[0]._ends

    def __repr__(self) -> str:
        rest = f", split={self.split!r}" if self.split else ""
        return f"JoinedSource({self.hookpoint!r}{rest}: {self.n_rows} rows of {self.n_features})"

    @cached_property
    def statistics(self) -> RowStatistics:
        """Mean and norms over all rows of the split; the first use reads them all."""
        found = RowStatistics(self.n_features)
        for block in range(len(self._ends)):
            start, stop = self._start(block), int(self._ends[block])
            found.update(self.rows(start, stop))
        return found

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the fingerprints of all parts."""
        parts = " ".join(part.fingerprint for part in self.parts)
        return hashlib.sha256(parts.encode()).hexdigest()

    def with_split(self, split: str | None, heldout_fraction: float = 0.1) -> "JoinedSource":
        """Return one side of the split, or all rows."""
        return JoinedSource([part.with_split(split, heldout_fraction) for part in self.parts])

    @property
    def is_one_cache(self) -> bool:
        """Whether all parts are hookpoints of one cache."""
        return len({part.path.resolve() for part in self.parts}) == 1

    @property
    def n_documents(self) -> int:
        """Number of documents in the caches."""
        return self.parts[0].n_documents

    @property
    def vocabulary(self) -> list[str] | None:
        """Text piece of every token id; None without a tokenizer."""
        return self.parts[0].vocabulary

    @property
    def provenance(self) -> dict[str, Any]:
        """Of the first part."""
        return self.parts[0].provenance

    def token_ids(self, start: int, stop: int) -> Tensor:
        """Return the token id of each row of a range, int64."""
        return self.parts[0].token_ids(start, stop)

    def positions(self, start: int, stop: int) -> Tensor:
        """Return each row's place in the context that the model saw, int64."""
        return self.parts[0].positions(start, stop)

    def document_ids(self, start: int, stop: int) -> Tensor:
        """Return the number of each row's document in the order of the texts, int64."""
        return self.parts[0].document_ids(start, stop)

    def _read_block(self, block: int) -> np.ndarray:
        start, stop = self._start(block), int(self._ends[block])
        rows = [part.rows(start, stop, dtype=part.dtype) for part in self.parts]
        return np.concatenate([to_bits(part) for part in rows], axis=1)

    def _prepare(self, blocks: np.ndarray) -> None:
        for part in self.parts:
            part._prepare(self._blocks_of(part, blocks))

    def _place(self, blocks: np.ndarray) -> np.ndarray:
        starts = np.concatenate([[0], self._ends])[blocks]
        return ranges(starts, self._ends[blocks] - starts)

    def _pick(self, storage: int, rows: np.ndarray, out: np.ndarray) -> None:
        first = 0
        for part, places in zip(self.parts, self._places_of_rows, strict=True):
            found = np.empty((len(rows), part.n_features), dtype=out.dtype)
            part._pick_part(places[rows & ROW_MASK], np.empty_like(found), found)
            out[:, first : first + part.n_features] = found
            first += part.n_features

    @cached_property
    def _places_of_rows(self) -> list[np.ndarray]:
        """Where each part has each row: 8 bytes a row."""
        return [part._place(np.arange(len(part._ends))) for part in self.parts]

    def _blocks_of(self, part: Cache, blocks: np.ndarray) -> np.ndarray:
        """Return the blocks of a part that hold the rows of ours."""
        ends = part._ends
        starts = [self._start(int(block)) for block in blocks]
        stops = [int(self._ends[block]) for block in blocks]
        spans = [
            np.arange(
                np.searchsorted(ends, start, side="right"),
                np.searchsorted(ends, stop - 1, side="right") + 1,
            )
            for start, stop in zip(starts, stops, strict=True)
            if stop > start
        ]
        return np.unique(np.concatenate(spans)) if spans else np.empty(0, dtype=np.int64)


def _check_match(first: Cache, other: Cache) -> None:
    """Refuse two caches whose rows are not the same tokens."""
    if (first.split, first.heldout_fraction) != (other.split, other.heldout_fraction):
        raise ValueError(
            "`caches` must be opened at the same split; got "
            f"{first.split!r} of {first.heldout_fraction:g} and "
            f"{other.split!r} of {other.heldout_fraction:g}."
        )
    if first.dtype != other.dtype:
        raise ValueError(
            f"`caches` must have one dtype; got {str(first.dtype)[6:]} of {first.path} and "
            f"{str(other.dtype)[6:]} of {other.path}."
        )
    if first.path.resolve() == other.path.resolve():
        return
    fact = _difference(first, other)
    if fact is not None:
        raise ValueError(
            f"`caches` must hold the same tokens in the same order; {first.path} and {other.path} "
            f"{fact}. Write both from the same texts, with one tokenizer and the same settings."
        )


def _difference(first: Cache, other: Cache) -> str | None:
    """Return how the tokens of two caches differ, or None."""
    if first.n_rows != other.n_rows:
        return f"have {first.n_rows} and {other.n_rows} rows"
    for start in range(0, first.n_rows, _COMPARED):
        stop = min(start + _COMPARED, first.n_rows)
        same = torch.ones(stop - start, dtype=torch.bool)
        for name in ("token_ids", "positions", "document_ids"):
            mine: Tensor = getattr(first, name)(start, stop)
            same &= mine == getattr(other, name)(start, stop)
        if not bool(same.all()):
            return f"differ first in row {start + int((~same).nonzero()[0])}"
    return None
