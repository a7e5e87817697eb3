"""Encoding with thresholds in chunks of rows; gradients come from the entries kept only."""

import torch
from torch import Tensor

from sparsecode.ops._row_gradient import RowGradient, dense_rows
from sparsecode.ops.activation import reference as activation
from sparsecode.ops.decode.cpu import gather_sum

CHUNK_ENTRIES = 1 << 22  # pre-activations held at a time


def supports(x: Tensor, W_enc: Tensor) -> str | None:
    """Return the objection to the fast path, or None."""
    for name, tensor in (("x", x), ("W_enc", W_enc)):
        if tensor.dtype not in (torch.float32, torch.float64):
            return f"`{name}` of dtype {str(tensor.dtype).removeprefix('torch.')}"
    return None


class EncodeThreshold(torch.autograd.Function):
    """Entries above a threshold as values, ids and row boundaries."""

    @staticmethod
    def forward(ctx, x, W_enc, b_enc, theta, pre_bias, collector: RowGradient | None):
        centered = x.detach() if pre_bias is None else x.detach() - pre_bias.detach()
        parts = []
        for part in centered.split(max(1, CHUNK_ENTRIES // W_enc.shape[1])):
            z_nF = part @ W_enc.detach()
            z_nF = z_nF if b_enc is None else z_nF.add_(b_enc.detach())
            parts.append(activation.threshold(z_nF, theta))
        values, ids = (torch.cat(lists) for lists in list(zip(*parts, strict=True))[:2])
        counts = torch.cat([crow.diff() for *_, crow in parts])
        crow = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        ctx.mark_non_differentiable(ids, crow)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(centered, W_enc, ids, crow)
        ctx.collector = collector
        return values, ids, crow

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _ids, _crow):
        out: list[Tensor | None] = [None] * 6
        if grad is None:
            return tuple(out)
        centered, W_enc, ids, crow = ctx.saved_tensors
        width, grad = W_enc.shape[1], grad.contiguous()
        rows = torch.arange(len(centered)).repeat_interleave(crow.diff(), output_size=len(ids))
        if ctx.needs_input_grad[1] and ctx.collector is not None:
            ctx.collector.add(ids, rows, grad, centered)
        elif ctx.needs_input_grad[1]:
            out[1] = dense_rows(ids, rows, grad, centered, width).t()
        sums = torch.bincount(ids, grad.double(), minlength=width).to(grad.dtype)
        if ctx.needs_input_grad[0]:
            out[0] = gather_sum(grad, ids, crow, W_enc.t().contiguous())
        if ctx.needs_input_grad[2]:
            out[2] = sums
        if ctx.needs_input_grad[4]:
            out[4] = -(W_enc @ sums)
        return tuple(out)
