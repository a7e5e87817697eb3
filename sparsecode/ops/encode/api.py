"""Encoding: a linear map, a bias and the selection of k entries a row, in bounded memory."""

from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from sparsecode._checks import (
    check_choice,
    check_floating,
    check_int,
    check_last_dim,
    check_same_device,
    check_shape,
)
from sparsecode._impl import Impl, choose_impl
from sparsecode.codes import SparseCodes
from sparsecode.ops._row_gradient import row_gradient_of
from sparsecode.ops.encode import cpu, reference


def encode_topk(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor | None,
    k: int,
    *,
    activation: Literal["relu", "none"] = "relu",
    pre_bias: Tensor | None = None,
    impl: Impl = "auto",
    memory: Literal["auto", "min"] = "auto",
) -> SparseCodes:
    """Keep the k largest pre-activations ``z = (x - pre_bias) @ W_enc + b_enc`` of each row.

    Parameters
    ----------
    x : Tensor of shape (..., D), floating
    W_enc : Tensor of shape (D, F)
        Fastest when each latent's column is contiguous, as in ``torch.empty(F, D).t()``.
    b_enc : Tensor of shape (F,) or None
    k : int in [1, F]
    activation : {"relu", "none"}, default="relu"
        With "relu" selected entries that are not positive have value 0 and receive no gradient.
    pre_bias : Tensor of shape (D,) or None, default=None
        Subtracted from `x` first.
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"
    memory : {"auto", "min"}, default="auto"
        How much of the (N, F) pre-activations the fast path may hold at a time: on the CPU at most
        about 15 % and 24 MiB, or a few per cent and 4 MiB; on a GPU a quarter, or 2.5 %, but
        1,024 or 128 rows in any case. The result is the same.

    Returns
    -------
    SparseCodes of shape (..., F)
        Fixed-k rows, descending. Differentiable in `x`, `W_enc`, `b_enc` and `pre_bias`; the
        selection counts as constant.

    Raises
    ------
    ValueError
        If shapes disagree or `k` is not in [1, F].
    NotImplementedError
        If the named implementation does not serve this call; the message says why.

    Notes
    -----
    Order, ties and NaN follow `topk`: larger float32 value first, then the lower id, NaN as -inf.

    References
    ----------
    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", eq. (1). arXiv:2406.04093.

    Examples
    --------
    >>> import torch
    >>> codes = encode_topk(torch.tensor([[1.0, -1.0]]), torch.eye(2), None, k=2)
    >>> codes.values, codes.indices
    (tensor([[1., 0.]]), tensor([[0, 1]]))
    """
    x, W_enc = check_floating("x", x), check_floating("W_enc", W_enc)
    b_enc = None if b_enc is None else check_floating("b_enc", b_enc)
    pre_bias = None if pre_bias is None else check_floating("pre_bias", pre_bias)
    n_features, n_latents = _check_weights(W_enc, b_enc, pre_bias)
    check_last_dim("x", x, n_features, "n_features")
    check_same_device("x", x, W_enc=W_enc, b_enc=b_enc, pre_bias=pre_bias)
    _check_dtypes(x, W_enc=W_enc, b_enc=b_enc, pre_bias=pre_bias)
    k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
    relu = check_choice("activation", activation, ("relu", "none")) == "relu"
    check_choice("memory", memory, ("auto", "min"))
    chosen = choose_impl(
        "encode_topk",
        impl,
        (x, W_enc),
        cpu=lambda: cpu.supports(x, W_enc),
        triton=lambda: _kernels().supports(x, W_enc),
    )
    x_ND = x.reshape(-1, n_features)
    if chosen == "reference":
        values, ids = reference.encode_topk(x_ND, W_enc, b_enc, k, pre_bias, relu)
    elif chosen == "cpu":
        collector = row_gradient_of(W_enc)
        values, ids = cpu.EncodeTopK.apply(x_ND, W_enc, b_enc, pre_bias, k, relu, memory, collector)
    else:
        collector = row_gradient_of(W_enc)
        weights = _as_autocast(x_ND, W_enc, b_enc, pre_bias)
        with torch.autocast(x.device.type, enabled=False):
            values, ids = _kernels().EncodeTopK.apply(*weights, k, relu, memory, collector)
    batch = x.shape[:-1]
    return SparseCodes._trusted(values.reshape(*batch, k), ids.reshape(*batch, k), n_latents)


def _check_weights(W_enc: Tensor, b_enc: Tensor | None, pre_bias: Tensor | None) -> tuple[int, int]:
    if W_enc.ndim != 2:
        raise ValueError(
            f"`W_enc` must have shape (n_features, n_latents); got {tuple(W_enc.shape)}."
        )
    n_features, n_latents = W_enc.shape
    if b_enc is not None:
        check_shape("b_enc", b_enc, (n_latents,), ("n_latents",))
    if pre_bias is not None:
        check_shape("pre_bias", pre_bias, (n_features,), ("n_features",))
    return n_features, n_latents


def _check_dtypes(x: Tensor, **weights: Tensor | None) -> None:
    if torch.is_autocast_enabled(x.device.type):
        return
    for name, weight in weights.items():
        if weight is not None and weight.dtype != x.dtype:
            raise TypeError(
                f"`{name}` must have the dtype of `x` ({str(x.dtype).removeprefix('torch.')}); "
                f"got {str(weight.dtype).removeprefix('torch.')}."
            )


def _as_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the tensors as autocast would hand them to a matrix product."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)


def _kernels() -> ModuleType:
    from sparsecode.ops.encode import triton

    return triton
