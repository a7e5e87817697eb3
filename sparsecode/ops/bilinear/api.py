"""Bilinear features: the product of two linear maps and the selection of k entries a row."""

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
from sparsecode.ops.bilinear import cpu, reference


def bilinear_features(
    x: Tensor,
    left: Tensor,
    right: Tensor,
    k: int,
    *,
    b_left: Tensor | None = None,
    b_right: Tensor | None = None,
    pre_bias: Tensor | None = None,
    activation: Literal["relu", "none"] = "relu",
    impl: Impl = "auto",
    memory: Literal["auto", "min"] = "auto",
) -> SparseCodes:
    """Keep the k largest of ``(left @ y + b_left) * (right @ y + b_right)``, ``y = x - pre_bias``.

    Parameters
    ----------
    x : Tensor of shape (..., D), floating
    left, right : Tensor of shape (F, D)
        The two weights of a latent, one latent per row.
    k : int in [1, F]
    b_left, b_right : Tensor of shape (F,) or None, default=None
    pre_bias : Tensor of shape (D,) or None, default=None
        Subtracted from `x` first.
    activation : {"relu", "none"}, default="relu"
        With "relu" selected entries that are not positive have value 0 and receive no gradient.
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"
    memory : {"auto", "min"}, default="auto"
        How much of the (N, F) products the fast path may hold at a time: three buffers of at most
        about 5 % and 8 MiB on the CPU, 8 % and at least 1,024 rows on a GPU; with "min" 1 % and
        1 MiB, or 128 rows. The result is the same.

    Returns
    -------
    SparseCodes of shape (..., F)
        Fixed-k rows, descending. Differentiable in all tensors; the selection counts as constant.

    Raises
    ------
    ValueError
        If shapes disagree or `k` is not in [1, F].
    NotImplementedError
        If the named implementation does not serve this call; the message says why.

    Notes
    -----
    Order, ties and NaN follow `topk`. The fast paths keep both factors of the chosen entries, and
    their gradients come from these alone. Without biases the features are even in ``y``: they
    do not tell a row from its negative.

    References
    ----------
    Features: Dooms & Gauderis (2025), "Finding Manifolds With Bilinear Autoencoders".
    arXiv:2510.16820. Selection: Gao et al. (2024), eq. (1). arXiv:2406.04093.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[1.0, -2.0]])
    >>> codes = bilinear_features(x, torch.eye(2), torch.eye(2), k=1)
    >>> codes.values, codes.indices
    (tensor([[4.]]), tensor([[1]]))
    """
    x, left, right = (
        check_floating(name, part) for name, part in (("x", x), ("left", left), ("right", right))
    )
    if left.ndim != 2:
        raise ValueError(
            f"`left` must have shape (n_latents, n_features); got {tuple(left.shape)}."
        )
    n_latents, n_features = left.shape
    check_shape("right", right, (n_latents, n_features), ("n_latents", "n_features"))
    biases = {"b_left": b_left, "b_right": b_right, "pre_bias": pre_bias}
    for name, bias in biases.items():
        if bias is not None:
            size, axis = (
                (n_features, "n_features") if name == "pre_bias" else (n_latents, "n_latents")
            )
            check_shape(name, check_floating(name, bias), (size,), (axis,))
    check_last_dim("x", x, n_features, "n_features")
    check_same_device("x", x, left=left, right=right, **biases)
    _check_dtypes(x, left=left, right=right, **biases)
    k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
    relu = check_choice("activation", activation, ("relu", "none")) == "relu"
    check_choice("memory", memory, ("auto", "min"))
    chosen = choose_impl(
        "bilinear_features",
        impl,
        (x, left),
        cpu=lambda: cpu.supports(x, left, right),
        triton=lambda: _kernels().supports(x, left),
    )
    given = (x.reshape(-1, n_features), left, right, b_left, b_right, pre_bias)
    if chosen == "reference":
        values, ids = reference.bilinear_features(*given, k, relu)
    else:
        collectors = (row_gradient_of(left), row_gradient_of(right))
        fast = cpu if chosen == "cpu" else _kernels()
        given = _as_autocast(*given)
        with torch.autocast(x.device.type, enabled=False):
            values, ids = fast.BilinearFeatures.apply(*given, k, relu, memory, collectors)
    batch = x.shape[:-1]
    return SparseCodes._trusted(values.reshape(*batch, k), ids.reshape(*batch, k), n_latents)


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
    """Return the tensors as autocast would hand them to a matrix product on a GPU."""
    device = next(tensor.device.type for tensor in tensors if tensor is not None)
    if device == "cpu" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)


def _kernels() -> ModuleType:
    from sparsecode.ops.bilinear import triton

    return triton
