"""The error at several budgets in one pass: each entry is gathered once, each way.

Reconstructions grow by the entries between two budgets. An entry belongs to every reconstruction
whose budget includes it, so its gradient is that of a suffix of them: the suffix sums are built
from the largest budget down, by addition only.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode.ops._row_gradient import RowGradient, dense_rows
from sparsecode.ops.decode import cpu as decoding


def supports(values: Tensor, W_dec: Tensor) -> str | None:
    """Return the objection to the fast path, or None."""
    return decoding.supports(values, W_dec)


def spans(budgets: list[int]) -> list[tuple[int, int]]:
    """Return the range of entries that each budget adds to the one before."""
    return list(itertools.pairwise([0, *budgets]))


class HierarchicalMSE(torch.autograd.Function):
    """Weighted errors at several budgets, the reconstructions, and the gradients of both."""

    @staticmethod
    def forward(
        ctx, values, W_dec, target, bias, indices, budgets, weights, collector: RowGradient | None
    ):
        recons = target.new_empty(len(budgets), *target.shape)
        loss = target.new_zeros(())
        recon = torch.zeros_like(target) if bias is None else bias.detach().expand_as(target)
        n_rows = max(target.shape[0], 1)
        for j, (first, last) in enumerate(spans(budgets)):
            part = _Entries.of(values.detach(), indices, first, last)
            recon = recon + decoding.gather_sum(part.values, part.ids, part.crow, W_dec.detach())
            recons[j] = recon
            error = torch.linalg.vector_norm(recon - target)
            loss = loss + weights[j] / n_rows * error.square()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(values, W_dec, target, indices, recons)
        ctx.budgets, ctx.weights, ctx.collector = budgets, weights, collector
        return loss, recons

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, grad_recons):
        out: list[Tensor | None] = [None] * 8
        if grad_loss is None and grad_recons is None:
            return tuple(out)
        values, W_dec, target, indices, recons = ctx.saved_tensors
        suffixes, to_target = _suffix_sums(ctx, grad_loss, grad_recons, recons, target)
        if ctx.needs_input_grad[0]:
            grad_values = torch.zeros_like(values)
            for suffix, (first, last) in zip(suffixes, spans(ctx.budgets), strict=True):
                part = _Entries.of(values, indices, first, last)
                dots = decoding.entry_dots(suffix, W_dec, part.ids, part.rows, part.crow)
                grad_values[:, first:last] = dots.view(-1, last - first)
            out[0] = grad_values
        if ctx.needs_input_grad[1]:
            used = ctx.budgets[-1]
            ids, flat = indices[:, :used].reshape(-1), values.detach()[:, :used].reshape(-1)
            rows = suffix_rows(ctx.budgets, target.shape[0], values.device)
            table = suffixes.view(-1, suffixes.shape[-1])
            if ctx.collector is None:
                out[1] = dense_rows(ids, rows, flat, table, W_dec.shape[0])
            else:
                ctx.collector.add(ids, rows, flat, table)
        out[2] = None if to_target is None else -to_target
        if ctx.needs_input_grad[3]:
            out[3] = suffixes[0].sum(0)
        return tuple(out)


def suffix_rows(budgets: list[int], n_rows: int, device: torch.device) -> Tensor:
    """Return for each entry up to the last budget the row of its suffix sum, (J * N,), flat."""
    sizes = torch.tensor([last - first for first, last in spans(budgets)], device=device)
    buckets = torch.arange(len(budgets), device=device).repeat_interleave(
        sizes, output_size=budgets[-1]
    )
    return (torch.arange(n_rows, device=device)[:, None] + buckets * n_rows).reshape(-1)


@dataclass(frozen=True)
class _Entries:
    """The entries ``first:last`` of every row, flat."""

    values: Tensor
    ids: Tensor
    rows: Tensor
    crow: Tensor

    @classmethod
    def of(cls, values: Tensor, indices: Tensor, first: int, last: int) -> "_Entries":
        n_rows, size = values.shape[0], last - first
        flat, ids = (part[:, first:last].reshape(-1).contiguous() for part in (values, indices))
        rows = torch.arange(n_rows).repeat_interleave(size)
        return cls(flat, ids, rows, torch.arange(n_rows + 1) * size)


def _suffix_sums(
    ctx, grad_loss: Tensor | None, grad_recons: Tensor | None, recons: Tensor, target: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the gradient of every suffix of reconstructions, and what of it is the loss's."""
    suffixes = torch.empty_like(recons)
    total = torch.zeros_like(target)
    needs_target = ctx.needs_input_grad[2] and grad_loss is not None
    to_target = torch.zeros_like(target) if needs_target else None
    for j in reversed(range(len(ctx.budgets))):
        if grad_loss is not None:
            scale = grad_loss * (2.0 * ctx.weights[j] / max(target.shape[0], 1))
            error = (recons[j] - target).mul_(scale)
            total = total + error
            to_target = None if to_target is None else to_target.add_(error)
        if grad_recons is not None:
            total = total + grad_recons[j]
        suffixes[j] = total
    return suffixes, to_target
