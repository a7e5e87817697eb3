"""The error at several budgets in one pass: each entry is gathered once, each way.

Reconstructions grow by the entries between two budgets. An entry belongs to every reconstruction
whose budget includes it, so its gradient is that of a suffix of them: the suffix sums are built
from the largest budget down, by addition only. `HierarchicalMSE` gives all reconstructions and
their gradients; `HierarchicalError` only the loss, whose gradients it takes on the way, some rows
at a time, so that nothing of the size of (budgets, rows, features) is held.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode.ops._row_gradient import RowGradient, dense_rows
from sparsecode.ops.decode import cpu as decoding

HELD = 1 << 21  # numbers: of the errors at all budgets, for as many rows as are taken together


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
            recon = recon + _sums_of(values.detach(), indices, W_dec.detach(), first, last)
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
                layout = _Layout.of(len(target), [last - first])
                ids = layout.take(indices[:, first:last])
                dots = decoding.entry_dots(suffix, W_dec, ids, layout.rows, layout.crow)
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


class HierarchicalError(torch.autograd.Function):
    """Weighted errors at several budgets, and the reconstruction at the last, without gradient."""

    @staticmethod
    def forward(
        ctx, values, W_dec, target, bias, indices, budgets, weights, collector: RowGradient | None
    ):
        parts = (values, W_dec, target, bias)
        grads = [
            torch.zeros_like(part) if need else None
            for part, need in zip(parts, ctx.needs_input_grad, strict=False)
        ]
        start = -target if bias is None else bias.detach() - target
        loss, recon = target.new_zeros(()), torch.empty_like(target)
        n_rows, depth = target.shape
        shares = torch.tensor(weights, dtype=target.dtype) / max(n_rows, 1)
        step = max(1, HELD // (len(budgets) * max(depth, 1)))
        layout = _Layout.of(min(step, n_rows), budgets)
        memory = W_dec.new_empty(
            len(layout.crow) - 1, depth
        )  # new memory is slow: all parts use it
        for first in range(0, n_rows, step):
            rows = slice(first, min(first + step, n_rows))
            if rows.stop - first < step:
                layout = _Layout.of(rows.stop - first, budgets)
            some, ids = layout.take(values.detach()[rows]), layout.take(indices[rows])
            errors = _errors(layout, some, ids, W_dec.detach(), start[rows], memory)
            recon[rows] = errors[-1] + target[rows]
            loss += (torch.linalg.vector_norm(errors, dim=(1, 2)).square() * shares).sum()
            if any(part is not None for part in grads):
                _to_suffixes(errors, weights)
                _add_gradients(grads, rows, layout, some, ids, W_dec.detach(), errors)
        ctx.save_for_backward(*grads)
        ctx.factor, ctx.collector = 2 * _common(weights) / max(n_rows, 1), collector
        ctx.mark_non_differentiable(recon)
        return loss, recon

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_loss, _):
        factor = grad_loss * ctx.factor
        out = [None if part is None else part * factor for part in ctx.saved_tensors]
        if ctx.collector is not None and out[1] is not None:
            ctx.collector.add_dense(out[1])
            out[1] = None
        return (*out, None, None, None, None)


def _sums_of(values: Tensor, indices: Tensor, W_dec: Tensor, first: int, last: int) -> Tensor:
    """Return the sums of the entries ``first:last`` of every row."""
    layout = _Layout.of(len(values), [last - first])
    part = layout.take(values[:, first:last]), layout.take(indices[:, first:last])
    return decoding.gather_sum(*part, layout.crow, W_dec)


def _errors(
    layout: "_Layout", values: Tensor, ids: Tensor, W_dec: Tensor, start: Tensor, memory: Tensor
) -> Tensor:
    """Return what each budget leaves over, (J, n, D), from ``start = bias - target``."""
    if layout.alone:
        errors = torch.index_select(W_dec, 0, ids, out=memory[: len(ids)]).mul_(values[:, None])
    else:
        errors = decoding.gather_sum(values, ids, layout.crow, W_dec)
    errors = errors.view(-1, *start.shape)
    errors[0] += start
    for before, after in itertools.pairwise(errors.unbind()):
        after.add_(before)
    return errors


def _common(weights: list[float]) -> float:
    """Return the factor that `_to_suffixes` leaves to its caller: the weight, if there is one."""
    return weights[0] if len(set(weights)) == 1 else 1.0


def _to_suffixes(errors: Tensor, weights: list[float]) -> None:
    """Replace errors by weighted sums of those of the same and larger budgets, over `_common`."""
    planes = errors.unbind()
    if len(set(weights)) > 1:
        for plane, weight in zip(planes, weights, strict=True):
            plane.mul_(weight)
    for after, before in itertools.pairwise(reversed(planes)):
        before.add_(after)


def _add_gradients(
    grads: list[Tensor | None],
    rows: slice,
    layout: "_Layout",
    values: Tensor,
    ids: Tensor,
    W_dec: Tensor,
    suffixes: Tensor,
) -> None:
    """Add the gradients of some rows; `suffixes` may be overwritten."""
    to_values, to_W, to_target, to_bias = grads
    table = suffixes.view(-1, suffixes.shape[-1])
    if to_values is not None:
        dots = decoding.entry_dots(table, W_dec, ids, layout.rows, layout.crow)
        to_values[rows, : layout.places.shape[1]] = dots[layout.places]
    if to_target is not None:
        to_target[rows] = -suffixes[0]
    if to_bias is not None:
        to_bias += suffixes[0].sum(0)
    if to_W is not None:
        live = values.nonzero().flatten()  # a NaN in a row that chose nothing stays there
        if layout.alone and len(live) == len(values):
            sources = table.mul_(values[:, None])  # nothing else needs them any more
        else:
            ids, sources = ids[live], table[layout.rows[live]] * values[live, None]
        to_W.index_add_(0, ids, sources)  # one after the other: the order is fixed


def suffix_rows(budgets: list[int], n_rows: int, device: torch.device) -> Tensor:
    """Return for each entry up to the last budget the row of its suffix sum, (J * N,), flat."""
    sizes = torch.tensor([last - first for first, last in spans(budgets)], device=device)
    buckets = torch.arange(len(budgets), device=device).repeat_interleave(
        sizes, output_size=budgets[-1]
    )
    return (torch.arange(n_rows, device=device)[:, None] + buckets * n_rows).reshape(-1)


@dataclass(frozen=True)
class _Layout:
    """Entries of some rows, flat: budget by budget, and there row by row, as bags.

    A bag has the entries that one budget adds to one row; `rows` is the bag of each entry, `crow`
    where bags begin and end, `order` where entries were in the rows, `places` (n_rows, used) where
    they are now.
    """

    order: Tensor
    rows: Tensor
    crow: Tensor
    places: Tensor

    @classmethod
    def of(cls, n_rows: int, budgets: list[int]) -> "_Layout":
        """Lay out the entries of `n_rows` rows, up to the last budget."""
        used = budgets[-1]
        numbers = torch.arange(n_rows * used).view(n_rows, used)
        order = torch.cat([numbers[:, first:last].reshape(-1) for first, last in spans(budgets)])
        sizes = torch.tensor([last - first for first, last in spans(budgets)])
        sizes = sizes.repeat_interleave(n_rows)
        crow = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        rows = torch.arange(len(sizes)).repeat_interleave(sizes)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order))
        return cls(order, rows, crow, places.view(n_rows, used))

    @property
    def alone(self) -> bool:
        """Whether every bag has one entry."""
        return len(self.rows) == len(self.crow) - 1

    def take(self, part: Tensor) -> Tensor:
        """Return the values or the ids of the rows in this order."""
        return part[:, : self.places.shape[1]].reshape(-1)[self.order]


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
