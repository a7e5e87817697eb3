"""Decoding as it is defined: eager, any floating dtype, plain autograd."""

import torch
from torch import Tensor


def decode(values: Tensor, indices: Tensor, rows: Tensor, n_rows: int, W_dec: Tensor) -> Tensor:
    """Return ``y[n] = sum of values * W_dec[indices]`` over the entries of row n, shape (N, D).

    `values`, `indices` and `rows` are flat lists of entries. Half precision is summed in float32.
    """
    wide = torch.promote_types(W_dec.dtype, torch.float32)
    parts = values.to(wide).unsqueeze(1) * W_dec[indices].to(wide)
    out = parts.new_zeros(n_rows, W_dec.shape[1]).index_add(0, rows, parts)
    return out.to(W_dec.dtype)


def decode_mse(
    values: Tensor,
    indices: Tensor,
    rows: Tensor,
    W_dec: Tensor,
    target: Tensor,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the mean over rows of the summed squared error, and the reconstruction."""
    recon = decode(values, indices, rows, target.shape[0], W_dec)
    if bias is not None:
        recon = recon + bias
    wide = torch.promote_types(recon.dtype, torch.float32)
    error = recon.to(wide) - target.to(wide)
    return error.square().sum() / max(target.shape[0], 1), recon
