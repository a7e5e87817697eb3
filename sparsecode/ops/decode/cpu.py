"""Decoding by gathered rows, and its gradients from sorted sparse lists."""

import torch
from torch import Tensor
from torch.nn import functional

from sparsecode.ops._row_gradient import RowGradient, dense_rows


def supports(values: Tensor, W_dec: Tensor) -> str | None:
    """Return the objection to the fast path, or None."""
    for name, tensor in (("values", values), ("W_dec", W_dec)):
        if tensor.dtype not in (torch.float32, torch.float64):
            return f"`{name}` of dtype {str(tensor.dtype).removeprefix('torch.')}"
    if values.dtype != W_dec.dtype:
        return "`values` and `W_dec` of different dtypes"
    return None


def gather_sum(values: Tensor, indices: Tensor, crow: Tensor, W_dec: Tensor) -> Tensor:
    """Return weighted sums of rows of `W_dec`, (N, D); row n has entries crow[n]:crow[n+1]."""
    if not indices.numel():
        return W_dec.new_zeros(crow.numel() - 1, W_dec.shape[1])
    return functional.embedding_bag(
        indices, W_dec, crow[:-1], mode="sum", per_sample_weights=values
    )


def entry_dots(
    left_ND: Tensor, W_dec: Tensor, indices: Tensor, rows: Tensor, crow: Tensor
) -> Tensor:
    """Return ``left[rows] . W_dec[indices]`` for each entry, without gathering (nnz, D)."""
    if not indices.numel():
        return left_ND.new_zeros(0)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left_ND, W_dec, indices, crow[:-1].contiguous(), rows, 0, -1
    )


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
        if grad is None:
            return None, None, None, None, None, None
        values, W_dec, indices, rows, crow = ctx.saved_tensors
        grad_values, grad_W = _entry_gradients(
            ctx, grad.contiguous(), values, W_dec, indices, rows, crow
        )
        return grad_values, grad_W, None, None, None, None


class DecodeMSE(torch.autograd.Function):
    """Reconstruction, its squared error, and the gradients of both outputs."""

    @staticmethod
    def forward(
        ctx, values, W_dec, target, bias, indices, rows, crow, collector: RowGradient | None
    ):
        recon = gather_sum(values.detach(), indices, crow, W_dec.detach())
        if bias is not None:
            recon += bias
        n_rows = max(target.shape[0], 1)
        loss = torch.linalg.vector_norm(recon - target).square() / n_rows
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, W_dec, indices, rows, crow, recon, target)
        ctx.collector, ctx.n_rows = collector, n_rows
        return loss, recon

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, grad_recon):
        values, W_dec, indices, rows, crow, recon, target = ctx.saved_tensors
        out: list[Tensor | None] = [None] * 8
        if grad_loss is None and grad_recon is None:
            return tuple(out)
        grad_error = None
        if grad_loss is not None:
            grad_error = (recon - target).mul_(grad_loss * (2.0 / ctx.n_rows))
        if ctx.needs_input_grad[2] and grad_error is not None:
            out[2] = -grad_error
        parts = [part for part in (grad_error, grad_recon) if part is not None]
        total = parts[0].contiguous() if len(parts) == 1 else parts[0] + parts[1]
        out[0], out[1] = _entry_gradients(ctx, total, values, W_dec, indices, rows, crow)
        if ctx.needs_input_grad[3]:
            out[3] = total.sum(0)
        return tuple(out)


def _entry_gradients(ctx, grad, values, W_dec, indices, rows, crow):
    grad_values = grad_W = None
    if ctx.needs_input_grad[0]:
        grad_values = entry_dots(grad, W_dec, indices, rows, crow)
    if ctx.needs_input_grad[1] and ctx.collector is not None:
        ctx.collector.add(indices, rows, values.detach(), grad)
    elif ctx.needs_input_grad[1]:
        grad_W = dense_rows(indices, rows, values.detach(), grad, W_dec.shape[0])
    return grad_values, grad_W
