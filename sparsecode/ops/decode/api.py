"""Decoding: from sparse codes back to features, with or without the squared error."""

from types import ModuleType

import torch
from torch import Tensor

from sparsecode._checks import check_floating, check_same_device, check_shape
from sparsecode._impl import Impl, choose_impl
from sparsecode.codes import SparseCodes
from sparsecode.ops._row_gradient import row_gradient_of
from sparsecode.ops.decode import cpu, reference


def decode(
    codes: SparseCodes, W_dec: Tensor, *, bias: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """Sum the active atoms of each row.

    Computes ``y[n] = bias + sum over the entries of row n of value * W_dec[index]``.

    Parameters
    ----------
    codes : SparseCodes of shape (..., F)
        Repeated indices are added.
    W_dec : Tensor of shape (F, D), floating, same device as `codes`
        One atom per row.
    bias : Tensor of shape (D,) or None, default=None
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"

    Returns
    -------
    Tensor of shape (..., D), dtype of `W_dec`
        Half precision is accumulated in float32. Differentiable in the values, `W_dec` and `bias`;
        the gradient of `W_dec` is summed in a fixed order.

    Raises
    ------
    ValueError
        If ``codes.width`` differs from ``W_dec.shape[0]``.
    NotImplementedError
        If the named implementation does not serve this call; the message says why.

    Examples
    --------
    >>> codes = SparseCodes(torch.tensor([[2.0]]), torch.tensor([[1]]), 3)
    >>> decode(codes, torch.eye(3))
    tensor([[0., 2., 0.]])
    """
    W_dec, bias = _check_dictionary(codes, W_dec, bias)
    chosen = _choose("decode", impl, codes, W_dec)
    values, indices, rows, crow = _entries(codes)
    if chosen == "reference":
        out = reference.decode(values, indices, rows, codes.n_rows, W_dec)
    else:
        path = cpu if chosen == "cpu" else _kernels()
        out = path.Decode.apply(values, W_dec, indices, rows, crow, row_gradient_of(W_dec))
    if bias is not None:
        out = out + bias
    return out.reshape(*codes.shape[:-1], W_dec.shape[1])


def decode_mse(
    codes: SparseCodes,
    W_dec: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Decode and compare with a target: the mean over rows of the sum over features.

    Computes ``loss = 1 / N * sum over n of ||y[n] - target[n]||^2`` with ``y = decode(codes,
    W_dec) + bias``.

    Parameters
    ----------
    codes : SparseCodes of shape (..., F)
    W_dec : Tensor of shape (F, D), floating
    target : Tensor of shape (..., D)
    bias : Tensor of shape (D,) or None, default=None
    impl : {"auto", "reference", "cpu", "triton"}, default="auto"

    Returns
    -------
    loss : Tensor, scalar
        0 for an empty batch.
    recon : Tensor of shape (..., D)
        Both outputs are differentiable in the values, `W_dec`, `target` (the loss only) and `bias`.

    Examples
    --------
    >>> codes = SparseCodes(torch.tensor([[2.0]]), torch.tensor([[1]]), 3)
    >>> loss, recon = decode_mse(codes, torch.eye(3), torch.ones(1, 3))
    >>> loss
    tensor(3.)
    """
    W_dec, bias = _check_dictionary(codes, W_dec, bias)
    target = check_floating("target", target)
    check_shape(
        "target",
        target,
        (*codes.shape[:-1], W_dec.shape[1]),
        ["n_rows"] * (len(codes.shape) - 1) + ["n_features"],
    )
    check_same_device("W_dec", W_dec, target=target)
    chosen = _choose("decode_mse", impl, codes, W_dec)
    values, indices, rows, crow = _entries(codes)
    target_ND = target.reshape(-1, W_dec.shape[1])
    if chosen == "reference":
        loss, recon = reference.decode_mse(values, indices, rows, W_dec, target_ND, bias)
    elif chosen == "cpu":
        target_ND = target_ND.to(W_dec.dtype)
        collector = row_gradient_of(W_dec)
        loss, recon = cpu.DecodeMSE.apply(
            values, W_dec, target_ND, bias, indices, rows, crow, collector
        )
    else:
        longest = None if codes.is_ragged else codes.values.shape[-1]
        collector = row_gradient_of(W_dec)
        loss, recon = _kernels().DecodeMSE.apply(
            values, W_dec, target_ND, bias, indices, rows, crow, longest, collector
        )
    return loss, recon.reshape(target.shape)


def _entries(codes: SparseCodes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return values, ids, rows (flat) and row boundaries of all entries."""
    rows = codes.row_ids().reshape(-1).contiguous()  # one row alone expands with stride 0
    crow = codes.crow
    if crow is None:
        crow = torch.arange(codes.n_rows + 1, device=codes.device) * codes.values.shape[-1]
    values, indices = codes.values.reshape(-1), codes.indices.reshape(-1)  # maybe strided views
    return values.contiguous(), indices.contiguous(), rows, crow.contiguous()


def _choose(op: str, impl: Impl, codes: SparseCodes, W_dec: Tensor) -> str:
    return choose_impl(
        op,
        impl,
        (codes.values, W_dec),
        cpu=lambda: cpu.supports(codes.values, W_dec),
        triton=lambda: _kernels().supports(codes.values, W_dec),
    )


def _kernels() -> ModuleType:
    from sparsecode.ops.decode import triton

    return triton


def _check_dictionary(
    codes: SparseCodes, W_dec: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if not isinstance(codes, SparseCodes):
        raise TypeError(f"`codes` must be a SparseCodes; got {type(codes).__name__}.")
    W_dec = check_floating("W_dec", W_dec)
    bias = None if bias is None else check_floating("bias", bias)
    wide = W_dec.shape[1] if W_dec.ndim == 2 else None
    if W_dec.ndim == 2 and W_dec.shape[0] != codes.width and W_dec.shape[1] == codes.width:
        raise ValueError(
            f"`W_dec` must have shape (n_latents, n_features) = ({codes.width}, any); "
            f"got {tuple(W_dec.shape)}. Was it passed transposed?"
        )
    check_shape("W_dec", W_dec, (codes.width, wide), ("n_latents", "n_features"))
    check_same_device("codes", codes.values, W_dec=W_dec, bias=bias)
    if bias is not None:
        check_shape("bias", bias, (wide,), ("n_features",))
    return W_dec, bias
