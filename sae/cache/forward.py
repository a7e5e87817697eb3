"""From a pool of contexts to rows: the forward passes, and which tokens become rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae.cache.format import DTYPES
from sae.cache.hooks import Run
from sae.cache.progress import Progress
from sae.cache.settings import WriteSettings
from sae.cache.tokens import Context, batches, padded


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a cache: activations by hookpoint, and where each row comes from.

    ``documents`` counts from 0 within the call of `write`.
    """

    activations: Mapping[str, Tensor]
    token_ids: Tensor
    positions: Tensor
    documents: Tensor

    def __len__(self) -> int:
        return len(self.token_ids)

    def __getitem__(self, rows: slice | Tensor) -> "Rows":
        activations = {name: values[rows] for name, values in self.activations.items()}
        return Rows(activations, self.token_ids[rows], self.positions[rows], self.documents[rows])


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, one after the other."""
    names = parts[0].activations
    return Rows(
        {name: torch.cat([part.activations[name] for part in parts]) for name in names},
        torch.cat([part.token_ids for part in parts]),
        torch.cat([part.positions for part in parts]),
        torch.cat([part.documents for part in parts]),
    )


class Forward:
    """Runs the hooked model over pools of contexts.

    Parameters
    ----------
    run : callable
        What `hooks.capture` yields.
    settings : WriteSettings
    context_length : int
        With ``settings.batch_size`` it bounds the tokens of a forward pass.
    progress : Progress
        Told about every forward pass.
    """

    def __init__(
        self, run: Run, settings: WriteSettings, context_length: int, progress: Progress
    ) -> None:
        self._run = run
        self._dtype = DTYPES[settings.dtype].torch
        self._outliers = settings.drop_outliers
        self._max_tokens = settings.batch_size * context_length
        self._progress = progress

    def __call__(self, pool: Sequence[Context], first_row: int) -> Rows:
        """Return the rows of a pool, in its order; `first_row` is the number of the first one."""
        keep = np.concatenate([context.keep for context in pool])
        ids = np.concatenate([context.ids for context in pool])[keep]
        lengths = [len(context.ids) for context in pool]
        positions = np.concatenate([np.arange(length) for length in lengths])[keep]
        documents = np.repeat([context.after.documents - 1 for context in pool], lengths)[keep]
        rows = Rows(
            self._activations(pool),
            torch.from_numpy(ids.astype(np.int32)),
            torch.from_numpy(positions.astype(np.int32)),
            torch.from_numpy(documents.astype(np.int64)),
        )
        if self._outliers is not False:
            rows = rows[_inliers(rows.activations, float(self._outliers))]
        for name, values in rows.activations.items():
            _check_finite(values, name, first_row)
        return rows

    def _activations(self, pool: Sequence[Context]) -> dict[str, Tensor]:
        pieces: dict[str, list[Tensor]] = {}
        for numbers in batches(pool, self._max_tokens):
            contexts = [pool[i] for i in numbers]
            ids, mask = padded(contexts)
            keep = torch.zeros_like(mask, dtype=torch.bool)
            for row, context in enumerate(contexts):
                keep[row, : len(context.ids)] = torch.from_numpy(context.keep)
            counts = keep.sum(1).tolist()
            for name, output in self._run(ids, mask).items():
                rows = output[keep.to(output.device)].to(self._dtype).cpu()
                slots = pieces.setdefault(name, [rows[:0]] * len(pool))
                for i, piece in zip(numbers, rows.split(counts), strict=True):
                    slots[i] = piece
            self._progress.add(sum(counts))
        return {name: torch.cat(slots) for name, slots in pieces.items()}


def _inliers(activations: Mapping[str, Tensor], multiple: float) -> Tensor:
    """Return which rows have a norm of at most `multiple` medians at every hookpoint."""
    inside = torch.ones(len(next(iter(activations.values()))), dtype=torch.bool)
    for values in activations.values():
        norms = torch.linalg.vector_norm(values, dim=1, dtype=torch.float64)
        if len(norms):
            inside &= ~(norms > multiple * norms.nanmedian())  # NaN stays, to be refused
    return inside


def _check_finite(values: Tensor, name: str, first_row: int) -> None:
    bad = ~torch.isfinite(values).all(1)
    if not bool(bad.any()):
        return
    local = int(bad.nonzero()[0])
    dtype = str(values.dtype).removeprefix("torch.")
    overflowed = bool(torch.isinf(values[local]).any()) and values.dtype == torch.float16
    advice = (
        'Use dtype="bfloat16" or "float32", or drop_outliers=True.'
        if overflowed
        else "Check the model and the precision in which it runs."
    )
    what = "an infinity" if torch.isinf(values[local]).any() else "NaN"
    raise ValueError(
        f"activations of hookpoint {name!r} must be finite in {dtype}; got {what} in row "
        f"{first_row + local} ({int(bad.sum())} rows of {len(bad)}). {advice}"
    )
