"""Decoding on the GPU, with the squared error and the gradients of the values from one gather.

Programs run over all rows before the next block of columns, so that the columns of `W_dec` that
they gather from stay in the second-level cache and memory sees `W_dec` once. Bytes moved: the
dictionary once, the codes and rows of features once for each block of columns.
"""

# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false
# (a type checker takes `triton` for this file, and jitted functions for ordinary ones)

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparsecode.ops import _launch
from sparsecode.ops._row_gradient import RowGradient
from sparsecode.ops.rows.triton import row_sums

COLUMNS = 128
ENTRIES = 16
MAX_TILE = 64  # entries of a row that are gathered once and kept


def supports(values: Tensor, W_dec: Tensor) -> str | None:
    """Return the objection to these kernels, or None."""
    return _launch.objection(_decode, values, W_dec)


def gather_sum(values: Tensor, indices: Tensor, crow: Tensor, W_dec: Tensor) -> Tensor:
    """Return weighted sums of rows of `W_dec`, (N, D); row n has entries crow[n]:crow[n+1]."""
    n_rows, depth = crow.numel() - 1, W_dec.shape[1]
    out = W_dec.new_empty(n_rows, depth)
    columns = min(COLUMNS, _launch.power_of_2(depth))
    _launch.launch(
        _decode, (n_rows, _launch.cdiv(depth, columns)),
        values.contiguous(), indices.contiguous(), crow, W_dec, out,
        W_dec.stride(0), W_dec.stride(1), depth,
        ENTRIES=ENTRIES, COLUMNS=columns, ACC=_launch.accumulator(W_dec.dtype),
    )  # fmt: skip
    return out


def entry_dots(left_ND: Tensor, W_dec: Tensor, indices: Tensor, crow: Tensor) -> Tensor:
    """Return ``left[row] . W_dec[index]`` for each entry, in the accumulating dtype."""
    n_rows, depth = left_ND.shape
    columns = min(COLUMNS, _launch.power_of_2(depth))
    blocks = _launch.cdiv(depth, columns)
    parts = left_ND.new_zeros(blocks, indices.numel(), dtype=_launch.wide(W_dec.dtype))
    _launch.launch(
        _entry_dots, (n_rows, blocks), left_ND, indices.contiguous(), crow, W_dec, parts,
        left_ND.stride(0), left_ND.stride(1), W_dec.stride(0), W_dec.stride(1),
        indices.numel(), depth,
        ENTRIES=ENTRIES, COLUMNS=columns, ACC=_launch.accumulator(W_dec.dtype),
    )  # fmt: skip
    return parts.sum(0)


class Decode(torch.autograd.Function):
    """Weighted row sums; gradients to the values and to `W_dec`."""

    @staticmethod
    def forward(ctx, values, W_dec, indices, rows, crow, collector: RowGradient | None):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, W_dec, indices, rows, crow)
        ctx.collector = collector
        return gather_sum(values.detach(), indices, crow, W_dec.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        out: list[Tensor | None] = [None] * 6
        if grad is None:
            return tuple(out)
        values, W_dec, indices, rows, crow = ctx.saved_tensors
        if ctx.needs_input_grad[0]:
            out[0] = entry_dots(grad, W_dec, indices, crow).to(values.dtype)
        if ctx.needs_input_grad[1]:
            out[1] = _weight_gradient(ctx.collector, indices, rows, values, grad, W_dec)
        return tuple(out)


class DecodeMSE(torch.autograd.Function):
    """Reconstruction, its squared error, and the gradients of both outputs."""

    @staticmethod
    def forward(ctx, values, W_dec, target, bias, indices, rows, crow, longest, collector):
        weights = values.detach(), W_dec.detach()
        square, recon, error, dots = _mse_forward(*weights, target, bias, indices, crow, longest)
        n_rows = max(target.shape[0], 1)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, W_dec, indices, rows, crow, error, dots)
        ctx.collector, ctx.n_rows = collector, n_rows
        ctx.dtypes = target.dtype, None if bias is None else bias.dtype
        return square / n_rows, recon

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, grad_recon):
        out: list[Tensor | None] = [None] * 9
        if grad_loss is None and grad_recon is None:
            return tuple(out)
        values, W_dec, indices, rows, crow, error, dots = ctx.saved_tensors
        scale = None if grad_loss is None else grad_loss * (2.0 / ctx.n_rows)
        # The gradient of the reconstruction is ``factor * table``; factors go to the coefficients.
        if grad_recon is None:
            table, factor = error, scale
        elif scale is None:
            table, factor = grad_recon, None
        else:
            table, factor = error * scale + grad_recon, None
        scaled = lambda part: part if factor is None else part * factor  # noqa: E731
        if ctx.needs_input_grad[0]:
            own = dots if table is error else entry_dots(table, W_dec, indices, crow)
            out[0] = scaled(own).to(values.dtype)
        if ctx.needs_input_grad[1]:
            out[1] = _weight_gradient(ctx.collector, indices, rows, scaled(values), table, W_dec)
        if ctx.needs_input_grad[2] and scale is not None:
            out[2] = (error * -scale).to(ctx.dtypes[0])
        if ctx.needs_input_grad[3]:
            total = table.sum(0, dtype=_launch.wide(table.dtype))
            out[3] = scaled(total).to(ctx.dtypes[1])
        return tuple(out)


def _weight_gradient(
    collector: RowGradient | None,
    indices: Tensor,
    rows: Tensor,
    coefficients: Tensor,
    table: Tensor,
    W_dec: Tensor,
) -> Tensor | None:
    coefficients = coefficients.detach()
    if collector is None:
        return row_sums(indices, rows, coefficients, table, W_dec.shape[0], W_dec.dtype)
    collector.add(indices, rows, coefficients, table)
    return None


def _mse_forward(
    values: Tensor,
    W_dec: Tensor,
    target: Tensor,
    bias: Tensor | None,
    indices: Tensor,
    crow: Tensor,
    longest: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sum of squares, the reconstruction, its error, and error . atom of each entry."""
    n_rows, depth = target.shape
    target = target.detach()
    columns = min(COLUMNS, _launch.power_of_2(depth))
    blocks = _launch.cdiv(depth, columns)
    wide = _launch.wide(W_dec.dtype)
    entries = _launch.power_of_2(longest or MAX_TILE + 1)
    recon = W_dec.new_empty(n_rows, depth)
    error = W_dec.new_empty(n_rows, depth)
    squares = W_dec.new_empty(n_rows, blocks, dtype=wide)
    parts = W_dec.new_zeros(blocks, indices.numel(), dtype=wide)
    _launch.launch(
        _decode_mse, (n_rows, blocks),
        values, indices, crow, W_dec, target, recon if bias is None else bias.detach(),
        recon, error, squares, parts,
        W_dec.stride(0), W_dec.stride(1), target.stride(0), target.stride(1),
        0 if bias is None else bias.stride(0), indices.numel(), depth,
        ENTRIES=entries if entries <= MAX_TILE else ENTRIES, COLUMNS=columns,
        ONE=entries <= MAX_TILE, BIAS=bias is not None, ACC=_launch.accumulator(W_dec.dtype),
    )  # fmt: skip
    return squares.sum(), recon, error, parts.sum(0)


@triton.jit
def _gathered(
    values_ptr, ids_ptr, W_ptr, start, last, columns, inside, stride_row, stride_column,
    ENTRIES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return values and atoms, (ENTRIES,) and (ENTRIES, COLUMNS), of the entries from `start`."""
    places = start + tl.arange(0, ENTRIES)
    live = places < last
    values = tl.load(values_ptr + places, mask=live, other=0.0).to(ACC)
    ids = tl.load(ids_ptr + places, mask=live, other=0).to(tl.int64)
    atoms = tl.load(
        W_ptr + ids[:, None] * stride_row + columns[None, :] * stride_column,
        mask=live[:, None] & inside[None, :],
        other=0.0,
    ).to(ACC)
    return values, atoms


@triton.jit
def _decode(
    values_ptr, ids_ptr, crow_ptr, W_ptr, out_ptr, stride_row, stride_column, depth,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Grid (rows, column blocks): one block of one reconstruction."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS).to(tl.int64)
    inside = columns < depth
    first = tl.load(crow_ptr + row)
    last = tl.load(crow_ptr + row + 1)
    total = tl.zeros((COLUMNS,), ACC)
    for start in range(first, last, ENTRIES):
        values, atoms = _gathered(
            values_ptr, ids_ptr, W_ptr, start, last, columns, inside, stride_row, stride_column,
            ENTRIES, ACC,
        )  # fmt: skip
        total += tl.sum(values[:, None] * atoms, axis=0)
    tl.store(out_ptr + row * depth + columns, total, mask=inside)


@triton.jit
def _entry_dots(
    left_ptr, ids_ptr, crow_ptr, W_ptr, parts_ptr,
    left_stride_row, left_stride_column, stride_row, stride_column, n_entries, depth,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Grid (rows, column blocks): this block's part of ``left[row] . W[id]`` of a row's entries."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < depth
    left = tl.load(
        left_ptr + row * left_stride_row + columns * left_stride_column, mask=inside, other=0.0
    ).to(ACC)
    last = tl.load(crow_ptr + row + 1)
    for start in range(tl.load(crow_ptr + row), last, ENTRIES):
        places = start + tl.arange(0, ENTRIES)
        live = places < last
        ids = tl.load(ids_ptr + places, mask=live, other=0).to(tl.int64)
        atoms = tl.load(
            W_ptr + ids[:, None] * stride_row + columns[None, :] * stride_column,
            mask=live[:, None] & inside[None, :],
            other=0.0,
        ).to(ACC)
        dots = tl.sum(atoms * left[None, :], axis=1)
        tl.store(parts_ptr + block * n_entries + places, dots, mask=live)


@triton.jit
def _decode_mse(
    values_ptr, ids_ptr, crow_ptr, W_ptr, target_ptr, bias_ptr,
    recon_ptr, error_ptr, squares_ptr, parts_ptr,
    stride_row, stride_column, target_stride_row, target_stride_column, bias_stride,
    n_entries, depth,
    ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, ONE: tl.constexpr, BIAS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Grid (rows, column blocks): reconstruction, error, its square, and error . atom by entry.

    ONE says that no row has more than ENTRIES entries: their atoms are then gathered once.
    """
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1).to(tl.int64)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < depth
    first = tl.load(crow_ptr + row)
    last = tl.load(crow_ptr + row + 1)
    values, atoms = _gathered(
        values_ptr, ids_ptr, W_ptr, first, last, columns, inside, stride_row, stride_column,
        ENTRIES, ACC,
    )  # fmt: skip
    total = tl.sum(values[:, None] * atoms, axis=0)
    if not ONE:
        for start in range(first + ENTRIES, last, ENTRIES):
            values, atoms = _gathered(
                values_ptr, ids_ptr, W_ptr, start, last, columns, inside, stride_row,
                stride_column, ENTRIES, ACC,
            )  # fmt: skip
            total += tl.sum(values[:, None] * atoms, axis=0)
    if BIAS:
        total += tl.load(bias_ptr + columns * bias_stride, mask=inside, other=0.0).to(ACC)
    target = tl.load(
        target_ptr + row * target_stride_row + columns * target_stride_column,
        mask=inside,
        other=0.0,
    ).to(ACC)
    error = tl.where(inside, total - target, 0.0)
    tl.store(recon_ptr + row * depth + columns, total, mask=inside)
    tl.store(error_ptr + row * depth + columns, error, mask=inside)
    tl.store(squares_ptr + row * tl.num_programs(1) + block, tl.sum(error * error, axis=0))
    parts_ptr += block * n_entries
    if ONE:
        places = first + tl.arange(0, ENTRIES)
        dots = tl.sum(atoms * error[None, :], axis=1)
        tl.store(parts_ptr + places, dots, mask=places < last)
    else:
        for start in range(first, last, ENTRIES):
            values, atoms = _gathered(
                values_ptr, ids_ptr, W_ptr, start, last, columns, inside, stride_row,
                stride_column, ENTRIES, ACC,
            )  # fmt: skip
            places = start + tl.arange(0, ENTRIES)
            dots = tl.sum(atoms * error[None, :], axis=1)
            tl.store(parts_ptr + places, dots, mask=places < last)
