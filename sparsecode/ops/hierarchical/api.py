"""The reconstruction error at several budgets at once."""

from collections.abc import Sequence
from types import ModuleType
from typing import Literal

from torch import Tensor

from sparsecode._checks import (
    check_choice,
    check_float,
    check_floating,
    check_int,
    check_same_device,
    check_shape,
)
from sparsecode._impl import Impl, choose_impl
from sparsecode.codes import SparseCodes
from sparsecode.ops._row_gradient import row_gradient_of
from sparsecode.ops.hierarchical import cpu, reference


def hierarchical_mse(
    codes: SparseCodes,
    W_dec: Tensor,
    target: Tensor,
    *,
    budgets: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    bias: Tensor | None = None,
    keep: Literal["all", "last"] = "all",
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Decode the first entries of each row at several budgets and compare each with a target.

    Computes ``loss = sum over j of weights[j] / N * sum over n of ||y_j[n] - target[n]||^2`` where
    ``y_j`` decodes the first ``budgets[j]`` entries of each row. Selections return entries
    in descending order, so a budget keeps the largest; the loss makes one code good at each of
    them.

    Parameters
    ----------
    codes : SparseCodes of shape (..., F)
        With K entries a row; ragged rows are padded to the longest.
    W_dec : Tensor of shape (F, D), floating
    target : Tensor of shape (..., D)
    budgets : sequence of J different int in [1, K], or None, default=None
        In any order; None means every number of entries from 1 to K.
    weights : sequence of J float, or None, default=None
        None weighs all budgets by 1 / J.
    bias : Tensor of shape (D,) or None, default=None
    keep : {"all", "last"}, default="all"
        Which reconstructions to return. "last" is that at the largest budget, without a gradient;
        on a CPU it then holds some rows at a time, and takes the gradients of the loss at once.
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"

    Returns
    -------
    loss : Tensor, scalar
        0 for an empty batch.
    recons : Tensor of shape (J, ..., D), or (..., D) with ``keep="last"``
        The reconstruction at each budget, in the order of `budgets`. Both outputs are
        differentiable in the values, `W_dec`, `target` (the loss only) and `bias`, unless `keep`
        says otherwise.

    Raises
    ------
    ValueError
        If shapes disagree, or `budgets` are not different numbers in [1, K].
    NotImplementedError
        If the named implementation does not serve this call; the message says why.

    Notes
    -----
    One budget equal to K is `decode_mse`. All reconstructions need memory for (J, N, D) numbers,
    and as much again for the gradients.

    References
    ----------
    Balagansky et al. (2025), "Train One Sparse Autoencoder Across Multiple Sparsity Budgets to
    Preserve Interpretability and Accuracy" (HierarchicalTopK). arXiv:2505.24473. Differs from it
    in: any set of budgets with any weights, and gradients by sums alone, in a fixed order.

    Examples
    --------
    >>> import torch
    >>> codes = SparseCodes(torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]]), 3)
    >>> loss, recons = hierarchical_mse(codes, torch.eye(3), torch.ones(1, 3), budgets=[1, 2])
    >>> loss
    tensor(2.5000)
    >>> recons[0]
    tensor([[0., 2., 0.]])
    """
    if not isinstance(codes, SparseCodes):
        raise TypeError(f"`codes` must be a SparseCodes; got {type(codes).__name__}.")
    W_dec, target = check_floating("W_dec", W_dec), check_floating("target", target)
    bias = None if bias is None else check_floating("bias", bias)
    check_choice("keep", keep, ("all", "last"))
    _check_shapes(codes, W_dec, target, bias)
    codes = codes.to_fixed()
    k, depth = codes.values.shape[-1], W_dec.shape[1]
    ascending, shares, order = _checked_budgets(budgets, weights, k)
    values, indices = codes.values.reshape(-1, k), codes.indices.reshape(-1, k)
    chosen = choose_impl(
        "hierarchical_mse",
        impl,
        (values, W_dec),
        cpu=lambda: cpu.supports(values, W_dec),
        triton=lambda: _kernels().supports(values, W_dec),
    )
    target_ND = target.reshape(-1, depth)
    if chosen == "reference":
        plain = (values, indices, W_dec, target_ND, bias)
        loss, recons = reference.hierarchical_mse(*plain, ascending, shares)
    else:
        target_ND = target_ND.to(W_dec.dtype) if chosen == "cpu" else target_ND
        path = cpu if chosen == "cpu" else _kernels()
        some = chosen == "cpu" and keep == "last"
        function = cpu.HierarchicalError if some else path.HierarchicalMSE
        loss, recons = function.apply(
            values, W_dec, target_ND, bias, indices, ascending, shares, row_gradient_of(W_dec)
        )
    if keep == "last":
        last = recons if recons.ndim == 2 else recons[-1]
        return loss, last.detach().reshape(target.shape)
    if order != sorted(order):
        recons = recons[order]
    return loss, recons.reshape(len(order), *target.shape)


def _check_shapes(codes: SparseCodes, W_dec: Tensor, target: Tensor, bias: Tensor | None) -> None:
    wide = W_dec.shape[1] if W_dec.ndim == 2 else None
    check_shape("W_dec", W_dec, (codes.width, wide), ("n_latents", "n_features"))
    axes = ["n_rows"] * (len(codes.shape) - 1) + ["n_features"]
    check_shape("target", target, (*codes.shape[:-1], wide), axes)
    if bias is not None:
        check_shape("bias", bias, (wide,), ("n_features",))
    check_same_device("codes", codes.values, W_dec=W_dec, target=target, bias=bias)


def _checked_budgets(
    budgets: Sequence[int] | None, weights: Sequence[float] | None, k: int
) -> tuple[list[int], list[float], list[int]]:
    """Return ascending budgets, their weights, and where each given budget went."""
    given = list(range(1, k + 1)) if budgets is None else list(budgets)
    given = [check_int("budgets", budget, low=1, high=k, high_name="k") for budget in given]
    if not given or len(set(given)) < len(given):
        raise ValueError(
            f"`budgets` must be one or more different numbers in [1, k]; got {given} with k={k}."
        )
    shares = [1.0 / len(given)] * len(given) if weights is None else list(weights)
    shares = [check_float("weights", weight) for weight in shares]
    if len(shares) != len(given):
        raise ValueError(
            f"`weights` must have one number for each of {len(given)} budgets; got {len(shares)}."
        )
    ranked = sorted(range(len(given)), key=given.__getitem__)
    places = [ranked.index(i) for i in range(len(given))]
    return [given[i] for i in ranked], [shares[i] for i in ranked], places


def _kernels() -> ModuleType:
    from sparsecode.ops.hierarchical import triton

    return triton
