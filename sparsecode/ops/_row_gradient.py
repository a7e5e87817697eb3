"""Gradients of (F, D) matrices kept as sparse lists instead of a dense (F, D) tensor.

The gradient of a decoder or an encoder is a sum over the active entries,
``G[f] = sum over (n, j) with indices[n, j] == f of coefficients[n, j] * table[n]``.
Sorting the entries by latent (CSC order, stable) fixes the order of every sum, so results are
bitwise reproducible, and rows of G can be made a block at a time where they are used.
"""

from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class SortedEntries:
    """Entries in CSC order: those of latent f are ``crow[f]:crow[f + 1]``, rows ascending."""

    coefficients: Tensor
    rows: Tensor
    crow: Tensor

    @classmethod
    def of(cls, indices: Tensor, rows: Tensor, coefficients: Tensor, width: int) -> "SortedEntries":
        """Sort entries given flat: latent id, row and coefficient of each.

        Entries of coefficient 0 are left out, so that a NaN in a row that nothing chose stays
        there.
        """
        live = coefficients.nonzero().flatten()
        if live.numel() < coefficients.numel():
            indices, rows, coefficients = indices[live], rows[live], coefficients[live]
        small = indices.int() if width < 2**31 else indices  # half the bytes to sort
        latents, order = small.sort(stable=True)
        starts = torch.arange(width + 1, dtype=latents.dtype, device=latents.device)
        return cls(coefficients[order], rows[order], torch.searchsorted(latents, starts))

    def sums(self, table: Tensor, start: int, stop: int) -> Tensor:
        """Return rows ``start:stop`` of the gradient, shape (stop - start, D)."""
        crow = self.crow[start : stop + 1]
        first, last = int(crow[0]), int(crow[-1])
        if first == last:
            return table.new_zeros(stop - start, table.shape[1])
        return functional.embedding_bag(
            self.rows[first:last],
            table,
            crow[:-1] - first,
            mode="sum",
            per_sample_weights=self.coefficients[first:last],
        )


@dataclass
class RowGradient:
    """The gradient that one backward pass, or several, leave for an (F, D) matrix.

    An optimizer that wants it sets ``parameter.row_gradient = RowGradient(width)``; the backward
    functions of `decode`, `decode_mse` and `encode_topk` then add to it and leave ``.grad`` alone.
    When the lists of many accumulated batches outgrow the dense matrix, they are summed into one.
    """

    width: int
    factors: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    dense: Tensor | None = None
    _sorted: list[tuple[SortedEntries, Tensor]] = field(default_factory=list)

    def add(self, indices: Tensor, rows: Tensor, coefficients: Tensor, table: Tensor) -> None:
        """Add ``sum of coefficients * table[rows]`` at latents `indices`, flat lists of entries."""
        self.factors.append((indices, rows, coefficients, table))
        if len(self.factors) > 1 and sum(t.shape[0] for *_, t in self.factors) > self.width:
            self.dense = self.to_dense()
            self._forget_lists()

    def add_dense(self, gradient: Tensor) -> None:
        """Add a gradient of shape (F, D) that is no sum over a short table."""
        self.dense = gradient if self.dense is None else self.dense + gradient

    @property
    def is_empty(self) -> bool:
        """Whether no backward pass has left anything since `clear`."""
        return not self.factors and self.dense is None

    def clear(self) -> None:
        """Forget everything, as ``zero_grad`` does."""
        self._forget_lists()
        self.dense = None

    def scale_(self, factor: float | Tensor) -> None:
        """Multiply the gradient by a number."""
        self.factors = [(i, r, coefficients * factor, t) for i, r, coefficients, t in self.factors]
        self._sorted.clear()
        if self.dense is not None:
            self.dense *= factor

    def sums(self, start: int, stop: int) -> Tensor | None:
        """Return rows ``start:stop`` of the gradient in a new tensor, or None without any."""
        if len(self._sorted) != len(self.factors):
            self._sorted = [
                (SortedEntries.of(indices, rows, coefficients, self.width), table)
                for indices, rows, coefficients, table in self.factors
            ]
        total = None if self.dense is None else self.dense[start:stop].clone()
        for entries, table in self._sorted:
            part = entries.sums(table, start, stop)
            total = part if total is None else total.add_(part)
        return total

    def touched(self, start: int, stop: int) -> Tensor | None:
        """Return which of rows ``start:stop`` have entries; None for all, if part of it is dense.

        Call after `sums`, which sorts the lists.
        """
        if self.dense is not None or not self._sorted:
            return None
        counts = [entries.crow[start : stop + 1].diff() for entries, _ in self._sorted]
        return torch.stack(counts).sum(0) > 0

    def merged(self) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Return the lists as one, their tables one below the other; None without any."""
        if not self.factors:
            return None
        if len(self.factors) == 1:
            return self.factors[0]
        indices, rows, coefficients, tables = zip(*self.factors, strict=True)
        heights = [0, *(table.shape[0] for table in tables[:-1])]
        moved = [part + top for part, top in zip(rows, accumulate(heights), strict=True)]
        return torch.cat(indices), torch.cat(moved), torch.cat(coefficients), torch.cat(tables)

    def to_dense(self) -> Tensor | None:
        """Return the whole gradient of shape (F, D), or None if there is none."""
        return self.sums(0, self.width)

    def _forget_lists(self) -> None:
        self.factors = []
        self._sorted = []


def row_gradient_of(matrix: Tensor) -> RowGradient | None:
    """Return what an optimizer set to collect for `matrix`, a parameter or its transpose."""
    owner = matrix._base if matrix._is_view() else matrix
    if owner is None:
        return None
    same = matrix.numel() == owner.numel() and matrix.data_ptr() == owner.data_ptr()
    return owner.__dict__.get("row_gradient") if same else None


def dense_rows(
    indices: Tensor, rows: Tensor, coefficients: Tensor, table: Tensor, width: int
) -> Tensor:
    """Return the dense gradient of shape (F, D), each row summed in a fixed order."""
    return SortedEntries.of(indices, rows, coefficients, width).sums(table, 0, width)
