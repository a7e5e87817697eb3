"""Bilinear features and selection in chunks of rows; gradients from the k entries of each row.

Both products of a chunk lie in reused (F, n) buffers, as in `sparsecode.ops.encode.cpu`; of the
chosen entries the two factors are kept, which is all that the gradients need.
"""

import torch
from torch import Tensor

from sparsecode.ops._row_gradient import RowGradient, dense_rows
from sparsecode.ops.decode.cpu import gather_sum
from sparsecode.ops.selection import reference as selection
from sparsecode.ops.selection.cpu import topk_columns

AUTO_BYTES = 8 << 20  # of one buffer, of three
AUTO_SHARE = 0.05  # of the rows in each
MIN_BYTES = 1 << 20
MIN_SHARE = 0.01


def supports(x: Tensor, left: Tensor, right: Tensor) -> str | None:
    """Return the objection to the fast path, or None."""
    for name, tensor in (("x", x), ("left", left), ("right", right)):
        if tensor.dtype not in (torch.float32, torch.float64):
            return f"`{name}` of dtype {str(tensor.dtype).removeprefix('torch.')}"
    return None


def rows_per_chunk(n_rows: int, width: int, memory: str) -> int:
    """Return how many rows are encoded at a time."""
    share, limit = (AUTO_SHARE, AUTO_BYTES) if memory == "auto" else (MIN_SHARE, MIN_BYTES)
    rows = min(round(n_rows * share), limit // (4 * width))
    step = 64 if rows >= 64 else 16
    return max(1, min(n_rows, max(step, rows - rows % step)))


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
        latents, rows = ids.reshape(-1), torch.arange(n_rows).repeat_interleave(k)
        # The gradient of a factor is that of the product times the other factor.
        to_factors = [torch.where(alive, grad * other, 0.0).reshape(-1) for other in (v, u)]
        crow = torch.arange(n_rows + 1) * k
        for side, (flat, weight) in enumerate(zip(to_factors, (left, right), strict=True)):
            collector = ctx.collectors[side]
            if ctx.needs_input_grad[1 + side] and collector is not None:
                collector.add(latents, rows, flat, x)
            elif ctx.needs_input_grad[1 + side]:
                out[1 + side] = dense_rows(latents, rows, flat, x, len(weight))
            sums = torch.bincount(latents, flat.double(), minlength=len(weight)).to(flat.dtype)
            if ctx.needs_input_grad[3 + side]:
                out[3 + side] = sums
            if ctx.needs_input_grad[5]:
                out[5] = _added(out[5], -(sums @ weight))
            if ctx.needs_input_grad[0]:
                out[0] = _added(out[0], gather_sum(flat, latents, crow, weight.contiguous()))
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
    chunk = rows_per_chunk(n_rows, width, memory)
    values, u, v = (x_ND.new_empty(n_rows, k) for _ in range(3))
    ids = x_ND.new_empty(n_rows, k, dtype=torch.long)
    buffers = x_ND.new_empty(3, width * chunk)
    for start in range(0, n_rows, chunk):
        part = slice(start, min(start + chunk, n_rows))
        u_Fn, v_Fn, z_Fn = (b[: width * (part.stop - start)].view(width, -1) for b in buffers)
        for weight, bias, out in ((left, b_left, u_Fn), (right, b_right, v_Fn)):
            if bias is None:
                torch.mm(weight, x_ND[part].t(), out=out)
            else:
                torch.addmm(bias.detach().unsqueeze(1), weight, x_ND[part].t(), out=out)
        torch.mul(u_Fn, v_Fn, out=z_Fn)
        choose = topk_columns if z_Fn.dtype == torch.float32 else _choose_by_definition
        chosen = choose(z_Fn, k)[1].t()
        ids[part] = chosen.t()
        for out, side in ((values, z_Fn), (u, u_Fn), (v, v_Fn)):
            out[part] = side.gather(0, chosen).t()
    return values, ids, u, v


def _choose_by_definition(z_Fn: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return selection.topk(z_Fn.t(), k)


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total + part
