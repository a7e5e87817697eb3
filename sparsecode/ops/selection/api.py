"""Selections: which entries of each row stay in the code.

All follow one total order: the larger float32 value first, equal values by the lower latent id.
NaN ranks as -inf; where fewer than k numbers exist, a NaN that has to be taken gives the
value 0 and receives no gradient.
"""

import math
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_floating, check_int
from sparsecode._impl import Impl, choose_impl
from sparsecode.codes import SparseCodes
from sparsecode.ops.selection import cpu, reference


def topk(x: Tensor, k: int, *, impl: Impl = "auto") -> SparseCodes:
    """Keep the k largest entries of each row.

    Parameters
    ----------
    x : Tensor of shape (..., F), floating
    k : int in [1, F]
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"

    Returns
    -------
    SparseCodes of shape (..., F)
        Fixed-k rows; entries descend. Differentiable in `x`: the gradient of each value goes to the
        entry that it was taken from.

    Raises
    ------
    ValueError
        If `k` is not in [1, F].
    NotImplementedError
        If the named implementation does not serve this call; the message says why.

    Examples
    --------
    >>> topk(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), 2).indices
    tensor([[1, 2]])
    """
    x = check_floating("x", x)
    _check_has_axis(x)
    width = x.shape[-1]
    k = check_int("k", k, low=1, high=width, high_name="n_latents")
    x_NF = x.reshape(-1, width)
    chosen = _choose("topk", impl, x)
    if chosen == "reference":
        values, ids = reference.topk(x_NF, k)
    else:
        select = cpu.topk if chosen == "cpu" else _kernels().topk
        values, ids = _TopK.apply(x_NF, k, select)
    batch = x.shape[:-1]
    return SparseCodes._trusted(values.reshape(*batch, k), ids.reshape(*batch, k), width)


def batch_topk(x: Tensor, k: float, *, impl: Impl = "auto") -> SparseCodes:
    """Keep the largest entries of the whole batch, k per row on average.

    The ``int(k * N)`` largest entries of the flattened batch stay, N being the product of
    all leading axes (BatchTopK, Bussmann et al. 2024). No row has a cap.

    Parameters
    ----------
    x : Tensor of shape (..., F), floating
        Apply a ReLU first if negative entries must never be kept.
    k : int or float in (0, F]
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"

    Returns
    -------
    SparseCodes of shape (..., F)
        Ragged rows; entries descend within each row. Ties go to the lower row, then to the
        lower id. Differentiable in `x`.

    References
    ----------
    Bussmann, Leask & Nanda (2024), "BatchTopK Sparse Autoencoders". arXiv:2412.06410.

    Examples
    --------
    >>> batch_topk(torch.tensor([[5.0, 4.0], [1.0, 3.0]]), 1).n_active
    tensor([2, 0])
    """
    x = check_floating("x", x)
    _check_has_axis(x)
    width = x.shape[-1]
    k = check_float("k", k, low=0.0, open_low=True)
    if k > width:
        raise ValueError(f"`k` must be in (0, n_latents]; got {k} with n_latents={width}.")
    x_NF = x.reshape(-1, width)
    total = min(int(k * x_NF.shape[0]), x_NF.numel())
    chosen = _choose("batch_topk", impl, x)
    if total == 0:
        values, ids = x_NF.reshape(-1)[:0], torch.empty(0, dtype=torch.long, device=x.device)
        crow = torch.zeros(x_NF.shape[0] + 1, dtype=torch.long, device=x.device)
    elif chosen == "reference":
        values, ids, crow = reference.batch_topk(x_NF, total)
    else:
        select = cpu.batch_topk if chosen == "cpu" else _kernels().batch_topk
        values, ids, crow = _BatchTopK.apply(x_NF, total, select)
    return SparseCodes._trusted(values, ids, width, crow, tuple(x.shape[:-1]))


def group_max(x: Tensor, n_groups: int, *, impl: Impl = "auto") -> SparseCodes:
    """Keep the largest entry of each of `n_groups` groups of neighbouring latents.

    An approximate top-k with one read of the row, and a model of its own: one winner a group.

    Parameters
    ----------
    x : Tensor of shape (..., F), floating
    n_groups : int in [1, F]
        Group g holds the ids from ``g * F // n_groups`` up to ``(g + 1) * F // n_groups``.
    impl : {"auto", "reference"}, default="auto"

    Returns
    -------
    SparseCodes of shape (..., F)
        `n_groups` entries a row, descending. Differentiable in `x`.

    Examples
    --------
    >>> group_max(torch.tensor([[1.0, 2.0, 9.0, 8.0]]), 2).indices
    tensor([[2, 1]])
    """
    x = check_floating("x", x)
    _check_has_axis(x)
    width = x.shape[-1]
    n_groups = check_int("n_groups", n_groups, low=1, high=width, high_name="n_latents")
    choose_impl("group_max", impl, (x,))
    values, ids = reference.group_max(x.reshape(-1, width), n_groups)
    shape = (*x.shape[:-1], n_groups)
    return SparseCodes._trusted(values.reshape(shape), ids.reshape(shape), width)


class _TopK(torch.autograd.Function):
    """Fast selection with the gradient of a gather."""

    @staticmethod
    def forward(ctx, x_NF: Tensor, k: int, select: Callable) -> tuple[Tensor, Tensor]:
        values, ids = select(x_NF, k)
        ctx.mark_non_differentiable(ids)
        ctx.set_materialize_grads(False)
        ctx.shape = x_NF.shape
        ctx.save_for_backward(ids, _was_nan(x_NF, values, ids))
        return values, ids

    @staticmethod
    def backward(ctx, grad: Tensor | None, _ids: None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        ids, was_nan = ctx.saved_tensors
        grad = grad.masked_fill(was_nan, 0.0)
        return grad.new_zeros(ctx.shape).scatter(-1, ids, grad), None, None


class _BatchTopK(torch.autograd.Function):
    """Fast selection over the batch with the gradient of a gather."""

    @staticmethod
    def forward(ctx, x_NF: Tensor, total: int, select: Callable) -> tuple[Tensor, Tensor, Tensor]:
        values, ids, crow = select(x_NF.detach(), total)
        ctx.mark_non_differentiable(ids, crow)
        ctx.set_materialize_grads(False)
        ctx.shape = x_NF.shape
        rows = torch.arange(x_NF.shape[0], device=x_NF.device)
        rows = rows.repeat_interleave(crow.diff(), output_size=total)
        flat = rows * x_NF.shape[1] + ids
        ctx.save_for_backward(flat, x_NF.detach().reshape(-1)[flat].isnan())
        return values, ids, crow

    @staticmethod
    def backward(
        ctx, grad: Tensor | None, _ids: None, _crow: None
    ) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        flat, was_nan = ctx.saved_tensors
        grad = grad.masked_fill(was_nan, 0.0)
        dense = grad.new_zeros(math.prod(ctx.shape)).scatter(0, flat, grad)
        return dense.reshape(ctx.shape), None, None


def _choose(op: str, impl: Impl, x: Tensor) -> str:
    return choose_impl(
        op, impl, (x,), cpu=lambda: cpu.supports(x), triton=lambda: _kernels().supports(x)
    )


def _kernels() -> ModuleType:
    from sparsecode.ops.selection import triton

    return triton


def _was_nan(x_NF: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    # Only a value of exactly 0 can stand for a NaN, so most calls read nothing of x again; a GPU
    # would have to be waited for to know.
    suspects = values == 0
    if values.device.type == "cpu" and not bool(suspects.any()):
        return suspects
    return suspects & x_NF.detach().gather(-1, ids).isnan()


def _check_has_axis(x: Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"`x` must have shape (..., n_latents) with n_latents >= 1; got {tuple(x.shape)}."
        )
