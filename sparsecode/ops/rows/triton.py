"""Gradients of dictionaries from sparse lists on the GPU: fixed order, no atomics, no (nnz, D).

A latent's entries are summed in the order of rows by one program, or, where there are many, by
one program per SEGMENT entries whose partial sums a second pass adds in order. Which
program sums what follows from counts alone: the sizes of grids and buffers are known to the host.
"""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (a type checker takes `triton` for this file, and jitted functions for ordinary ones)

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecode.ops import _launch
from sparsecode.ops._row_gradient import RowGradient

SEGMENT = 128  # entries that one program sums
ENTRIES = 16
COLUMNS = 128
MAX_DEPTH = 16384  # columns of a row that one program holds
TILE = 8192


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


def supports(rows: Tensor, table: Tensor | None = None) -> str | None:
    """Return the objection to updating `rows` with a kernel, or None."""
    for tensor in (rows, table):
        if tensor is not None and tensor.dtype == torch.float64:
            return "dtype float64"
    if rows.shape[1] > MAX_DEPTH:
        return f"{rows.shape[1]} columns"
    return _launch.objection(_update_rows, rows)


def update(
    rows: Tensor,
    gradient: RowGradient | None,
    dense: Tensor | None,
    state: dict[str, Tensor],
    step: Any,
    *,
    touched_only: bool = False,
) -> None:
    """Take one step of an optimizer on `rows` (F, D) in place, in one pass over them.

    The gradient is the sum of the lists of `gradient` and of `dense`; `state` holds
    ``exp_avg``, for Adam ``exp_avg_sq``, and maybe ``shadow``, all contiguous. `step` is a
    ``reference.Step``. With `touched_only` rows without entries stay as they are, unless there
    is a dense part.
    """
    width, depth = rows.shape
    entries = None if gradient is None else gradient.merged()
    if gradient is not None and gradient.dense is not None:
        dense = gradient.dense if dense is None else dense + gradient.dense
    columns = _launch.power_of_2(depth)
    lists, table, partial = None, rows, rows
    if entries is not None:
        indices, places, coefficients, table = entries
        lists = sorted_lists(indices, places, coefficients, width)
        partial = partial_sums(lists, table)
    mean, square = state["exp_avg"], state.get("exp_avg_sq")
    first = 1 - step.beta1**step.count if square is not None else 1.0
    second = 1 - step.beta2**step.count if square is not None else 1.0
    _launch.launch(
        _update_rows, (width,),
        *((rows, rows, rows, rows) if lists is None else
          (lists.coefficients, lists.rows, lists.crow, lists.slots)),
        table, partial, rows if dense is None else dense, rows, mean,
        mean if square is None else square, state.get("shadow", rows),
        table.stride(0), table.stride(1), *(rows if dense is None else dense).stride(),
        rows.stride(0), rows.stride(1), depth,
        step.lr / first, 1 - step.beta1, step.beta2, 1 - step.beta2, step.eps, second**-0.5,
        *step.salts,
        LISTS=lists is not None, DENSE=dense is not None, ADAM=square is not None,
        SHADOW="shadow" in state, UNIT_NORM=step.unit_norm,
        TOUCHED_ONLY=touched_only and lists is not None and dense is None,
        BFLOAT16=mean.dtype == torch.bfloat16,
        ENTRIES=max(1, min(ENTRIES, TILE // columns)), COLUMNS=columns,
        num_warps=4 if columns <= 1024 else 8 if columns <= 4096 else 16,
    )  # fmt: skip


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


@triton.jit
def _dithered(value, places, salt, BFLOAT16: tl.constexpr):
    """Round float32 to bfloat16 up or down at random, by bits that depend on the place."""
    if BFLOAT16:
        noise = (places + salt).to(tl.uint32)
        noise = (noise ^ (noise >> 16)) * 0x85EBCA6B
        noise = (noise ^ (noise >> 13)) * 0xC2B2AE35
        noise = (noise ^ (noise >> 16)) & 0xFFFF
        bits = (value.to(tl.uint32, bitcast=True) + noise) & 0xFFFF0000
        value = bits.to(tl.float32, bitcast=True)
    return value


@triton.jit(do_not_specialize=["salt", "salt_square"])
def _update_rows(
    coefficients_ptr, rows_ptr, crow_ptr, slots_ptr, table_ptr, partial_ptr,
    dense_ptr, weight_ptr, mean_ptr, square_ptr, shadow_ptr,
    stride_row, stride_column, dense_stride_row, dense_stride_column,
    weight_stride_row, weight_stride_column, depth,
    lr, lower1, beta2, lower2, eps, root_correction, salt, salt_square,
    LISTS: tl.constexpr, DENSE: tl.constexpr, ADAM: tl.constexpr, SHADOW: tl.constexpr,
    UNIT_NORM: tl.constexpr, TOUCHED_ONLY: tl.constexpr,
    BFLOAT16: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Grid (latents,): one program owns one row: gradient, projection, step, norm, shadow.

    Reads the row, its state and the rows of the table that fired it; writes row and state once.
    `lower1` and `lower2` are one minus the betas; `lr` carries Adam's first correction.
    """
    latent = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS).to(tl.int64)
    inside = columns < depth
    if TOUCHED_ONLY:  # noqa: SIM102 (known when compiled; what is loaded is not)
        if tl.load(crow_ptr + latent) == tl.load(crow_ptr + latent + 1):
            return
    gradient = tl.zeros((COLUMNS,), tl.float32)
    if LISTS:
        gradient = _gradient_row(
            coefficients_ptr, rows_ptr, crow_ptr, slots_ptr, table_ptr, partial_ptr, latent,
            columns, inside, stride_row, stride_column, depth, ENTRIES, COLUMNS, tl.float32,
        )  # fmt: skip
    if DENSE:
        gradient += tl.load(
            dense_ptr + latent * dense_stride_row + columns * dense_stride_column,
            mask=inside,
            other=0.0,
        ).to(tl.float32)
    weights = weight_ptr + latent * weight_stride_row + columns * weight_stride_column
    places = latent * depth + columns
    weight = tl.load(weights, mask=inside, other=0.0).to(tl.float32)
    mean = tl.load(mean_ptr + places, mask=inside, other=0.0).to(tl.float32)
    if UNIT_NORM:
        gradient -= tl.sum(gradient * weight, axis=0) * weight
    mean += lower1 * (gradient - mean)
    if ADAM:
        square = tl.load(square_ptr + places, mask=inside, other=0.0).to(tl.float32)
        square = beta2 * square + lower2 * gradient * gradient
        weight -= lr * mean / (tl.sqrt(square) * root_correction + eps)
        kept = _dithered(square, places, salt_square, BFLOAT16)
        tl.store(square_ptr + places, kept, mask=inside)
    else:
        sign = tl.where(mean > 0.0, 1.0, tl.where(mean < 0.0, -1.0, 0.0))
        weight -= lr * sign
    if UNIT_NORM:
        weight = tl.where(inside, weight, 0.0)
        weight /= tl.maximum(tl.sqrt(tl.sum(weight * weight, axis=0)), 1e-30)
    tl.store(weights, weight, mask=inside)
    tl.store(mean_ptr + places, _dithered(mean, places, salt, BFLOAT16), mask=inside)
    if SHADOW:
        tl.store(shadow_ptr + places, weight, mask=inside)
