"""Linear encoding and selection in chunks of rows; the (N, F) pre-activations are never held.

Each chunk is one matrix product ``W_enc.T @ x.T`` into a reused (F, n) buffer: with W first, MKL
packs the small factor, and group maxima then run along memory.
"""

import torch
from torch import Tensor

from sparsecode.ops._row_gradient import RowGradient, dense_rows
from sparsecode.ops.decode.cpu import gather_sum
from sparsecode.ops.selection.cpu import topk_columns

AUTO_BYTES = 24 << 20  # about the share of a last-level cache that one buffer may take
AUTO_SHARE = 0.15  # of the rows: keeps a step under a quarter of one (N, F) in all
MIN_BYTES = 4 << 20
MIN_SHARE = 0.025


def supports(x: Tensor, W_enc: Tensor) -> str | None:
    """Return the objection to the fast path, or None."""
    for name, tensor in (("x", x), ("W_enc", W_enc)):
        if tensor.dtype != torch.float32:
            return f"`{name}` of dtype {str(tensor.dtype).removeprefix('torch.')}"
    return None


def rows_per_chunk(n_rows: int, width: int, memory: str) -> int:
    """Return how many rows are encoded at a time."""
    share, limit = (AUTO_SHARE, AUTO_BYTES) if memory == "auto" else (MIN_SHARE, MIN_BYTES)
    rows = min(round(n_rows * share), limit // (4 * width))
    # A leading dimension that is no multiple of cache lines makes the product half again as slow.
    step = 64 if rows >= 64 else 16
    return max(1, min(n_rows, max(step, rows - rows % step)))


class EncodeTopK(torch.autograd.Function):
    """Selected pre-activations; gradients come from the k entries of each row only."""

    @staticmethod
    def forward(ctx, x, W_enc, b_enc, pre_bias, k, relu, memory, collector: RowGradient | None):
        centered = x.detach() if pre_bias is None else x.detach() - pre_bias.detach()
        values, ids = _encode(centered, W_enc.detach().t(), b_enc, k, memory)
        alive = ~values.isnan()
        if relu:
            alive &= values > 0
        values = torch.where(alive, values, 0.0)
        ctx.mark_non_differentiable(ids)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(centered, W_enc, ids, alive)
        ctx.collector = collector
        return values, ids

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _ids):
        out: list[Tensor | None] = [None] * 8
        if grad is None:
            return tuple(out)
        centered, W_enc, ids, alive = ctx.saved_tensors
        n_rows, k = ids.shape
        width = W_enc.shape[1]
        flat = torch.where(alive, grad, 0.0).reshape(-1)
        latents = ids.reshape(-1)
        rows = torch.arange(n_rows).repeat_interleave(k)
        if ctx.needs_input_grad[1] and ctx.collector is not None:
            ctx.collector.add(latents, rows, flat, centered)
        elif ctx.needs_input_grad[1]:
            out[1] = dense_rows(latents, rows, flat, centered, width).t()
        sums = _latent_sums(latents, flat, width)
        if ctx.needs_input_grad[2]:
            out[2] = sums
        if ctx.needs_input_grad[0]:
            crow = torch.arange(n_rows + 1) * k
            out[0] = gather_sum(flat, latents, crow, W_enc.t().contiguous())
        if ctx.needs_input_grad[3]:
            out[3] = -(W_enc @ sums)
        return tuple(out)


def _encode(
    x_ND: Tensor, W_FD: Tensor, b_enc: Tensor | None, k: int, memory: str
) -> tuple[Tensor, Tensor]:
    n_rows, width = x_ND.shape[0], W_FD.shape[0]
    chunk = rows_per_chunk(n_rows, width, memory)
    values, ids = x_ND.new_empty(n_rows, k), x_ND.new_empty(n_rows, k, dtype=torch.long)
    buffer = x_ND.new_empty(width * chunk)
    bias_F1 = None if b_enc is None else b_enc.detach().unsqueeze(1)
    for start in range(0, n_rows, chunk):
        x_nD = x_ND[start : start + chunk]
        z_Fn = buffer[: width * len(x_nD)].view(width, len(x_nD))
        if bias_F1 is None:
            torch.mm(W_FD, x_nD.t(), out=z_Fn)
        else:
            torch.addmm(bias_F1, W_FD, x_nD.t(), out=z_Fn)
        values[start : start + chunk], ids[start : start + chunk] = topk_columns(z_Fn, k)
    return values, ids


def _latent_sums(latents: Tensor, coefficients: Tensor, width: int) -> Tensor:
    # bincount adds in order of the entries, in float64: deterministic and exact enough for any
    # dtype.
    return torch.bincount(latents, coefficients.double(), minlength=width).to(coefficients.dtype)
