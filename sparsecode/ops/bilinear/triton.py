"""Bilinear features and selection on the GPU: matrix products in chunks of rows, three buffers.

The products are the vendor library's; each chunk is selected from before the next one overwrites
it. Gradients come from the k entries of each row, whose two factors are kept.
"""

import torch
from torch import Tensor

from sparsecode.ops import _launch
from sparsecode.ops._row_gradient import RowGradient
from sparsecode.ops.decode.triton import gather_sum
from sparsecode.ops.rows import triton as lists
from sparsecode.ops.selection import triton as selection

AUTO_SHARE, AUTO_ROWS = 0.08, 1024  # of the rows in each buffer; fewest rows worth a product
MIN_SHARE, MIN_ROWS = 0.01, 128


def supports(x: Tensor, left: Tensor) -> str | None:
    """Return the objection to these kernels, or None."""
    if left.shape[0] >= 2**31:
        return f"{left.shape[0]} latents"
    return selection.supports(x) or _launch.objection(selection._rank, left)


def rows_per_chunk(n_rows: int, memory: str) -> int:
    """Return how many rows are encoded at a time."""
    share, least = (AUTO_SHARE, AUTO_ROWS) if memory == "auto" else (MIN_SHARE, MIN_ROWS)
    return max(1, min(n_rows, max(least, int(n_rows * share))))


class BilinearFeatures(torch.autograd.Function):
    """Selected products; gradients come from the k entries of each row only."""

    @staticmethod
    def forward(
        ctx, x, left, right, b_left, b_right, pre_bias, k, relu, memory,
        collectors: tuple[RowGradient | None, RowGradient | None],
    ):  # fmt: skip
        x = x.detach() if pre_bias is None else x.detach() - pre_bias.detach()
        values, ids, u, v = _select(x, left.detach(), right.detach(), b_left, b_right, k, memory)
        alive = ~values.isnan()
        if relu:
            alive &= values > 0
        ctx.mark_non_differentiable(ids)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, left, right, ids, u, v, alive)
        ctx.collectors = collectors
        return torch.where(alive, values, 0.0), ids

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _ids):
        out: list[Tensor | None] = [None] * 10
        if grad is None:
            return tuple(out)
        x, left, right, ids, u, v, alive = ctx.saved_tensors
        n_rows, k = ids.shape
        latents, device = ids.reshape(-1), ids.device
        rows = torch.arange(n_rows, device=device).repeat_interleave(k, output_size=n_rows * k)
        crow = torch.arange(n_rows + 1, device=device) * k
        ones = x.new_ones(1, 1).expand(max(n_rows, 1), 1)
        # The gradient of a factor is that of the product times the other factor.
        to_factors = [torch.where(alive, grad * other, 0.0).reshape(-1) for other in (v, u)]
        for side, (flat, weight) in enumerate(zip(to_factors, (left, right), strict=True)):
            entries = lists.sorted_lists(latents, rows, flat, len(weight))
            collector = ctx.collectors[side]
            if ctx.needs_input_grad[1 + side] and collector is not None:
                collector.add(latents, rows, flat, x)
            elif ctx.needs_input_grad[1 + side]:
                out[1 + side] = lists.sums(entries, x, weight.dtype)
            if ctx.needs_input_grad[3 + side] or ctx.needs_input_grad[5]:
                sums = lists.sums(entries, ones, weight.dtype).squeeze(1)
                out[3 + side] = sums if ctx.needs_input_grad[3 + side] else None
                out[5] = _added(out[5], -(sums @ weight)) if ctx.needs_input_grad[5] else None
            if ctx.needs_input_grad[0]:
                out[0] = _added(out[0], gather_sum(flat, latents, crow, weight))
        return tuple(out)


def _select(
    x_ND: Tensor,
    left: Tensor,
    right: Tensor,
    b_left: Tensor | None,
    b_right: Tensor | None,
    k: int,
    memory: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values, ids and both factors of the chosen entries, each (N, k)."""
    n_rows, width = x_ND.shape[0], left.shape[0]
    chunk = rows_per_chunk(n_rows, memory)
    values, u, v = (x_ND.new_empty(n_rows, k) for _ in range(3))
    ids = x_ND.new_empty(n_rows, k, dtype=torch.long)
    buffers = [x_ND.new_empty(chunk, width) for _ in range(3)]
    for start in range(0, n_rows, chunk):
        part = slice(start, min(start + chunk, n_rows))
        u_nF, v_nF, z_nF = (buffer[: part.stop - start] for buffer in buffers)
        for weight, bias, out in ((left, b_left, u_nF), (right, b_right, v_nF)):
            if bias is None:
                torch.mm(x_ND[part], weight.t(), out=out)
            else:
                torch.addmm(bias.detach(), x_ND[part], weight.t(), out=out)
        torch.mul(u_nF, v_nF, out=z_nF)
        values[part], ids[part] = selection.topk(z_nF, k, keep_nan=True)
        u[part], v[part] = u_nF.gather(1, ids[part]), v_nF.gather(1, ids[part])
    return values, ids, u, v


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part
