"""The error at several budgets on the GPU: one program per row and block of columns.

Going up, the program adds entries and leaves the error at each budget; going down, it adds the
weighted errors to suffix sums, from which the gradients of the values (here) and of the
dictionary (from lists sorted by latent, later) follow. Nothing is recovered by subtraction.
Atoms are gathered twice, the second time from the second-level cache.
"""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (a type checker takes `triton` for this file, and jitted functions for ordinary ones)

import itertools

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecode.ops import _launch
from sparsecode.ops._row_gradient import RowGradient
from sparsecode.ops.decode.triton import entry_dots
from sparsecode.ops.rows.triton import row_sums

COLUMNS = 128
ENTRIES = 16


def supports(values: Tensor, W_dec: Tensor) -> str | None:
    """Return the objection to this kernel, or None."""
    return _launch.objection(_hierarchical, values, W_dec)


class HierarchicalMSE(torch.autograd.Function):
    """Weighted errors at several budgets, the reconstructions, and the gradients of both."""

    @staticmethod
    def forward(
        ctx, values, W_dec, target, bias, indices, budgets, weights, collector: RowGradient | None
    ):
        loss, recons, suffixes, dots = _forward(
            values.detach(), indices, W_dec.detach(), target.detach(), bias, budgets, weights
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, W_dec, indices, suffixes, dots)
        ctx.budgets, ctx.collector, ctx.n_rows = budgets, collector, max(target.shape[0], 1)
        ctx.dtypes = target.dtype, None if bias is None else bias.dtype
        return loss / ctx.n_rows, recons

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, grad_recons):
        out: list[Tensor | None] = [None] * 8
        if grad_loss is None and grad_recons is None:
            return tuple(out)
        values, W_dec, indices, suffixes, dots = ctx.saved_tensors
        scale = grad_loss if grad_loss is None else grad_loss * (2.0 / ctx.n_rows)
        table = suffixes
        if grad_recons is not None:
            table = grad_recons.clone()
            for j in reversed(range(len(table) - 1)):  # cumsum has no fixed order on a GPU
                table[j] += table[j + 1]
            table = table if scale is None else table + suffixes * scale
            dots = _dots(table, W_dec, indices, ctx.budgets) if ctx.needs_input_grad[0] else dots
        # The gradients are ``factor`` times sums over the table; factors go to the coefficients.
        factor = scale if grad_recons is None else None
        scaled = lambda part: part if factor is None else part * factor  # noqa: E731
        if ctx.needs_input_grad[0]:
            out[0] = scaled(dots).to(values.dtype)
        if ctx.needs_input_grad[1]:
            out[1] = _weight_gradient(ctx, scaled(values.detach()), indices, table, W_dec)
        if ctx.needs_input_grad[2] and scale is not None:
            out[2] = (suffixes[0] * -scale).to(ctx.dtypes[0])
        if ctx.needs_input_grad[3]:
            out[3] = scaled(table[0].sum(0, dtype=_launch.wide(table.dtype))).to(ctx.dtypes[1])
        return tuple(out)


def _weight_gradient(
    ctx, values: Tensor, indices: Tensor, table: Tensor, W_dec: Tensor
) -> Tensor | None:
    used, n_rows = ctx.budgets[-1], values.shape[0]
    device = values.device
    budgets = torch.tensor(ctx.budgets, device=device)
    buckets = torch.searchsorted(budgets, torch.arange(used, device=device), right=True)
    rows = (torch.arange(n_rows, device=device)[:, None] + buckets * n_rows).reshape(-1)
    ids, flat = indices[:, :used].reshape(-1), values[:, :used].reshape(-1)
    table = table.reshape(-1, table.shape[-1])
    if ctx.collector is None:
        return row_sums(ids, rows, flat, table, W_dec.shape[0], W_dec.dtype)
    ctx.collector.add(ids, rows, flat, table)
    return None


def _dots(table: Tensor, W_dec: Tensor, indices: Tensor, budgets: list[int]) -> Tensor:
    """Return for each entry the product of its atom with the suffix sum that it belongs to."""
    n_rows = indices.shape[0]
    dots = table.new_zeros(indices.shape, dtype=_launch.wide(W_dec.dtype))
    for suffix, (first, last) in zip(table, itertools.pairwise([0, *budgets]), strict=True):
        crow = torch.arange(n_rows + 1, device=table.device) * (last - first)
        part = entry_dots(suffix, W_dec, indices[:, first:last].reshape(-1), crow)
        dots[:, first:last] = part.view(n_rows, last - first)
    return dots


def _forward(
    values: Tensor,
    indices: Tensor,
    W_dec: Tensor,
    target: Tensor,
    bias: Tensor | None,
    budgets: list[int],
    weights: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sum of weighted squares, reconstructions, suffix sums of errors, dots by entry."""
    (n_rows, depth), k, n_budgets = target.shape, values.shape[1], len(budgets)
    columns = min(COLUMNS, _launch.power_of_2(depth))
    blocks, wide = _launch.cdiv(depth, columns), _launch.wide(W_dec.dtype)
    recons = W_dec.new_empty(n_budgets, n_rows, depth)
    suffixes = W_dec.new_empty(n_budgets, n_rows, depth)
    squares = W_dec.new_empty(n_rows, blocks, dtype=wide)
    parts = W_dec.new_zeros(blocks, n_rows, k, dtype=wide)
    bias = target if bias is None else bias.detach()
    _launch.launch(
        _hierarchical, (n_rows, blocks),
        values.contiguous(), indices.contiguous(), W_dec, target, bias,
        torch.tensor([0, *budgets], dtype=torch.int64, device=W_dec.device),
        torch.tensor(weights, dtype=wide, device=W_dec.device),
        recons, suffixes, squares, parts,
        W_dec.stride(0), W_dec.stride(1), target.stride(0), target.stride(1), bias.stride(-1),
        n_budgets, n_rows, k, depth, n_rows * depth,
        ENTRIES=min(ENTRIES, _launch.power_of_2(k)), COLUMNS=columns,
        BIAS=bias is not target, ACC=_launch.accumulator(W_dec.dtype),
    )  # fmt: skip
    return squares.sum(), recons, suffixes, parts.sum(0)


@triton.jit
def _hierarchical(
    values_ptr, ids_ptr, W_ptr, target_ptr, bias_ptr, budgets_ptr, weights_ptr,
    recons_ptr, suffixes_ptr, squares_ptr, parts_ptr,
    stride_row, stride_column, target_stride_row, target_stride_column, bias_stride,
    n_budgets, n_rows, k, depth, entries_of_plane,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, BIAS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Grid (rows, column blocks): errors at all budgets going up, suffix sums going down."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < depth
    plane = tl.zeros((), tl.int64) + entries_of_plane
    place = row * depth + columns
    values_ptr += row * k
    ids_ptr += row * k
    parts_ptr += block * n_rows * k + row * k
    target = tl.load(
        target_ptr + row * target_stride_row + columns * target_stride_column,
        mask=inside,
        other=0.0,
    ).to(ACC)
    total = tl.zeros((COLUMNS,), ACC)
    if BIAS:
        total += tl.load(bias_ptr + columns * bias_stride, mask=inside, other=0.0).to(ACC)
    square = tl.full((), 0.0, ACC)
    for j in range(n_budgets):
        last = tl.load(budgets_ptr + j + 1)
        for start in range(tl.load(budgets_ptr + j), last, ENTRIES):
            entries = start + tl.arange(0, ENTRIES)
            live = entries < last
            ids = tl.load(ids_ptr + entries, mask=live, other=0).to(tl.int64)
            values = tl.load(values_ptr + entries, mask=live, other=0.0).to(ACC)
            atoms = tl.load(
                W_ptr + ids[:, None] * stride_row + columns[None, :] * stride_column,
                mask=live[:, None] & inside[None, :],
                other=0.0,
            ).to(ACC)
            total += tl.sum(values[:, None] * atoms, axis=0)
        error = tl.where(inside, total - target, 0.0)
        square += tl.load(weights_ptr + j) * tl.sum(error * error, axis=0)
        tl.store(recons_ptr + j * plane + place, total, mask=inside)
        tl.store(suffixes_ptr + j * plane + place, error, mask=inside)
    tl.store(squares_ptr + row * tl.num_programs(1) + block, square)
    tl.debug_barrier()  # what follows reads the errors stored above
    suffix = tl.zeros((COLUMNS,), ACC)
    for step in range(n_budgets):
        j = n_budgets - 1 - step
        error = tl.load(suffixes_ptr + j * plane + place, mask=inside, other=0.0).to(ACC)
        suffix += tl.load(weights_ptr + j) * error
        tl.store(suffixes_ptr + j * plane + place, suffix, mask=inside)
        last = tl.load(budgets_ptr + j + 1)
        for start in range(tl.load(budgets_ptr + j), last, ENTRIES):
            entries = start + tl.arange(0, ENTRIES)
            live = entries < last
            ids = tl.load(ids_ptr + entries, mask=live, other=0).to(tl.int64)
            atoms = tl.load(
                W_ptr + ids[:, None] * stride_row + columns[None, :] * stride_column,
                mask=live[:, None] & inside[None, :],
                other=0.0,
            ).to(ACC)
            tl.store(parts_ptr + entries, tl.sum(atoms * suffix[None, :], axis=1), mask=live)
