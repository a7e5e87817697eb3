"""Gradients of dictionaries from sparse lists on the GPU: fixed order, no atomics, no (nnz, D).

A latent's entries are summed in the order of rows by one program, or, where there are many, by
one program per SEGMENT entries whose partial sums a second pass adds in order. Which
program sums what follows from counts alone: the sizes of grids and buffers are known to the host.
"""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (a type checker takes `triton` for this file, and jitted functions for ordinary ones)

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecode.ops import _launch

SEGMENT = 128  # entries that one program sums
ENTRIES = 16
COLUMNS = 128


@dataclass(frozen=True)
class Lists:
    """Entries sorted by latent, and the work that long lists are split into.

    Entries of latent f are ``crow[f]:crow[f + 1]``, rows ascending. A latent with more than SEGMENT
    of them has partial sums in the slots ``slots[f]:slots[f + 1]``.
    """

    coefficients: Tensor
    rows: Tensor
    crow: Tensor
    slots: Tensor
    latents: Tensor
    """Which latent each slot belongs to; the number of latents where to none."""


def sorted_lists(indices: Tensor, rows: Tensor, coefficients: Tensor, width: int) -> Lists:
    """Sort entries given flat, stably; nothing here waits for the device."""
    latents, order = indices.int().sort(stable=True)
    starts = torch.arange(width + 1, dtype=latents.dtype, device=latents.device)
    crow = torch.searchsorted(latents, starts)
    counts = crow.diff()
    parts = torch.where(counts > SEGMENT, (counts + SEGMENT - 1) // SEGMENT, 0)
    slots = torch.nn.functional.pad(parts.cumsum(0), (1, 0))
    capacity = 2 * (
        indices.numel() // SEGMENT
    )  # each long list fills one segment and half the next
    owners = torch.searchsorted(slots[1:], torch.arange(capacity, device=slots.device), right=True)
    return Lists(coefficients[order], rows[order], crow, slots, owners)


def partial_sums(lists: Lists, table: Tensor) -> Tensor:
    """Return the sums of the segments of long lists, (slots, D), in the accumulating dtype."""
    depth = table.shape[1]
    out = table.new_empty(max(lists.latents.numel(), 1), depth, dtype=_launch.wide(table.dtype))
    columns = min(COLUMNS, _launch.power_of_2(depth))
    _launch.launch(
        _partial_sums, (lists.latents.numel(), _launch.cdiv(depth, columns)),
        lists.coefficients, lists.rows, lists.crow, lists.slots, lists.latents, table, out,
        table.stride(0), table.stride(1), lists.slots.numel() - 1, depth,
        SEGMENT=SEGMENT, ENTRIES=ENTRIES, COLUMNS=columns, ACC=_launch.accumulator(table.dtype),
    )  # fmt: skip
    return out


def sums(lists: Lists, table: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``G[f] = sum of coefficients * table[rows]`` over the entries of latent f, (F, D)."""
    width, depth = lists.crow.numel() - 1, table.shape[1]
    out = table.new_empty(width, depth, dtype=dtype)
    columns = min(COLUMNS, _launch.power_of_2(depth))
    _launch.launch(
        _row_sums, (width, _launch.cdiv(depth, columns)),
        lists.coefficients, lists.rows, lists.crow, lists.slots, table, partial_sums(lists, table),
        out, table.stride(0), table.stride(1), depth,
        ENTRIES=ENTRIES, COLUMNS=columns, ACC=_launch.accumulator(table.dtype),
    )  # fmt: skip
    return out


def row_sums(
    indices: Tensor,
    rows: Tensor,
    coefficients: Tensor,
    table: Tensor,
    width: int,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient of a dictionary, (F, D), from entries given flat in any order."""
    return sums(sorted_lists(indices, rows, coefficients, width), table, dtype)


@triton.jit
def _segment(
    coefficients_ptr, rows_ptr, table_ptr, first, last, columns, inside, stride_row, stride_column,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return the sum over entries first .. last of coefficient times row of the table.

    Entries with coefficient 0 are not read: a NaN in a row that nothing chose stays there.
    """
    total = tl.zeros((COLUMNS,), ACC)
    for start in range(first, last, ENTRIES):
        places = start + tl.arange(0, ENTRIES)
        coefficients = tl.load(coefficients_ptr + places, mask=places < last, other=0.0).to(ACC)
        rows = tl.load(rows_ptr + places, mask=places < last, other=0).to(tl.int64)
        tile = tl.load(
            table_ptr + rows[:, None] * stride_row + columns[None, :] * stride_column,
            mask=(coefficients != 0.0)[:, None] & inside[None, :],
            other=0.0,
        ).to(ACC)
        total += tl.sum(coefficients[:, None] * tile, axis=0)
    return total


@triton.jit
def _partial_sums(
    coefficients_ptr, rows_ptr, crow_ptr, slots_ptr, latents_ptr, table_ptr, out_ptr,
    stride_row, stride_column, width, depth,
    SEGMENT: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Grid (slots, column blocks): sum one segment of a long list."""
    slot = tl.program_id(0).to(tl.int64)
    latent = tl.load(latents_ptr + slot)
    if latent < width:
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
        inside = columns < depth
        first = tl.load(crow_ptr + latent) + (slot - tl.load(slots_ptr + latent)) * SEGMENT
        last = tl.minimum(first + SEGMENT, tl.load(crow_ptr + latent + 1))
        total = _segment(
            coefficients_ptr, rows_ptr, table_ptr, first, last, columns, inside,
            stride_row, stride_column, ENTRIES, COLUMNS, ACC,
        )  # fmt: skip
        tl.store(out_ptr + slot * depth + columns, total, mask=inside)


@triton.jit
def _gradient_row(
    coefficients_ptr, rows_ptr, crow_ptr, slots_ptr, table_ptr, partial_ptr, latent, columns,
    inside, stride_row, stride_column, depth,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return one row of the gradient, from its entries or from the partial sums of a long list."""
    first_slot = tl.load(slots_ptr + latent)
    last_slot = tl.load(slots_ptr + latent + 1)
    first = tl.load(crow_ptr + latent)
    last = tl.load(crow_ptr + latent + 1)
    last = tl.where(last_slot > first_slot, first, last)
    total = _segment(
        coefficients_ptr, rows_ptr, table_ptr, first, last, columns, inside,
        stride_row, stride_column, ENTRIES, COLUMNS, ACC,
    )  # fmt: skip
    for slot in range(first_slot, last_slot):
        total += tl.load(partial_ptr + slot * depth + columns, mask=inside, other=0.0)
    return total


@triton.jit
def _row_sums(
    coefficients_ptr, rows_ptr, crow_ptr, slots_ptr, table_ptr, partial_ptr, out_ptr,
    stride_row, stride_column, depth,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Grid (latents, column blocks): write one row of the gradient, zeros where nothing fired."""
    latent = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    inside = columns < depth
    total = _gradient_row(
        coefficients_ptr, rows_ptr, crow_ptr, slots_ptr, table_ptr, partial_ptr, latent, columns,
        inside, stride_row, stride_column, depth, ENTRIES, COLUMNS, ACC,
    )  # fmt: skip
    tl.store(out_ptr + latent * depth + columns, total, mask=inside)
