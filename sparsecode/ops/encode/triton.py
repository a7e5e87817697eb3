"""Linear encoding and selection on the GPU: matrix products in chunks of rows, one buffer.

The product is the vendor library's, at its full speed; each chunk of pre-activations is selected
from before the next one overwrites it. Gradients come from the k entries of each row.
"""

import torch
from torch import Tensor

from sparsecode.ops import _launch
from sparsecode.ops._row_gradient import RowGradient
from sparsecode.ops.decode.triton import gather_sum
from sparsecode.ops.rows import triton as lists
from sparsecode.ops.selection import triton as selection

AUTO_SHARE, AUTO_ROWS = 0.25, 1024  # of the (N, F) pre-activations; fewest rows worth a product
MIN_SHARE, MIN_ROWS = 0.025, 128


def supports(x: Tensor, W_enc: Tensor) -> str | None:
    """Return the objection to these kernels, or None."""
    if W_enc.shape[1] >= 2**31:
        return f"{W_enc.shape[1]} latents"
    return selection.supports(x) or _launch.objection(selection._rank, W_enc)


def rows_per_chunk(n_rows: int, memory: str) -> int:
    """Return how many rows are encoded at a time."""
    share, least = (AUTO_SHARE, AUTO_ROWS) if memory == "auto" else (MIN_SHARE, MIN_ROWS)
    return max(1, min(n_rows, max(least, int(n_rows * share))))


class EncodeTopK(torch.autograd.Function):
    """Selected pre-activations; gradients come from the k entries of each row only."""

    @staticmethod
    def forward(ctx, x, W_enc, b_enc, pre_bias, k, relu, memory, collector: RowGradient | None):
        centered = x.detach() if pre_bias is None else x.detach() - pre_bias.detach()
        values, ids = _encode(centered, W_enc.detach(), b_enc, k, memory)
        alive = ~values.isnan()
        if relu:
            alive &= values > 0
        ctx.mark_non_differentiable(ids)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(centered, W_enc, ids, alive)
        ctx.collector = collector
        return torch.where(alive, values, 0.0), ids

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _ids):
        out: list[Tensor | None] = [None] * 8
        if grad is None:
            return tuple(out)
        centered, W_enc, ids, alive = ctx.saved_tensors
        n_rows, k = ids.shape
        flat, latents = torch.where(alive, grad, 0.0).reshape(-1), ids.reshape(-1)
        rows = torch.arange(n_rows, device=ids.device).repeat_interleave(k, output_size=n_rows * k)
        entries = lists.sorted_lists(latents, rows, flat, W_enc.shape[1])
        if ctx.needs_input_grad[1] and ctx.collector is not None:
            ctx.collector.add(latents, rows, flat, centered)
        elif ctx.needs_input_grad[1]:
            out[1] = lists.sums(entries, centered, W_enc.dtype).t()
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            ones = flat.new_ones(1, 1).expand(max(n_rows, 1), 1)
            sums = lists.sums(entries, ones, W_enc.dtype).squeeze(1)
            out[2] = sums if ctx.needs_input_grad[2] else None
            out[3] = -(W_enc @ sums) if ctx.needs_input_grad[3] else None
        if ctx.needs_input_grad[0]:
            crow = torch.arange(n_rows + 1, device=ids.device) * k
            out[0] = gather_sum(flat, latents, crow, W_enc.t())
        return tuple(out)


def _encode(
    x_ND: Tensor, W_enc: Tensor, b_enc: Tensor | None, k: int, memory: str
) -> tuple[Tensor, Tensor]:
    n_rows, width = x_ND.shape[0], W_enc.shape[1]
    chunk = rows_per_chunk(n_rows, memory)
    values, ids = x_ND.new_empty(n_rows, k), x_ND.new_empty(n_rows, k, dtype=torch.long)
    buffer = x_ND.new_empty(chunk, width)
    for start in range(0, n_rows, chunk):
        part = slice(start, min(start + chunk, n_rows))
        z_nF = buffer[: part.stop - start]
        if b_enc is None:
            torch.mm(x_ND[part], W_enc, out=z_nF)
        else:
            torch.addmm(b_enc.detach(), x_ND[part], W_enc, out=z_nF)
        values[part], ids[part] = selection.topk(z_nF, k, keep_nan=True)
    return values, ids
