"""Encoding with thresholds, some rows at a time."""

import torch
from torch import Tensor

from sparsecode._checks import check_floating, check_last_dim
from sparsecode.codes import SparseCodes
from sparsecode.ops.activation import threshold

CHUNK_ENTRIES = 1 << 22  # pre-activations held at a time


def encode_threshold(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor | None,
    theta: float | Tensor,
    *,
    pre_bias: Tensor | None = None,
) -> SparseCodes:
    """Keep the pre-activations ``z = (x - pre_bias) @ W_enc + b_enc`` larger than a threshold.

    Equals ``threshold(z, theta)``, made for some rows at a time.

    Parameters
    ----------
    x : Tensor of shape (..., D), floating
    W_enc : Tensor of shape (D, F)
    b_enc : Tensor of shape (F,) or None
    theta : float, or Tensor of shape () or (F,)
        One threshold, or one for each latent; an entry equal to it is not kept.
    pre_bias : Tensor of shape (D,) or None, default=None
        Subtracted from `x` first.

    Returns
    -------
    SparseCodes of shape (..., F)
        Ragged rows, ids ascending. Differentiable in all but `theta`, where the backward pass
        holds one (N, F) mask.

    References
    ----------
    Rajamanoharan et al. (2024), "Jumping Ahead", eq. (2). arXiv:2407.14435.

    Examples
    --------
    >>> encode_threshold(torch.tensor([[1.0, 3.0]]), torch.eye(2), None, 1.0).indices
    tensor([1])
    """
    x = check_floating("x", x)
    check_last_dim("x", x, W_enc.shape[0], "n_features")
    rows_ND = x.reshape(-1, x.shape[-1])
    parts = []
    for part_ND in rows_ND.split(max(1, CHUNK_ENTRIES // W_enc.shape[1])):
        centered = part_ND if pre_bias is None else part_ND - pre_bias
        z_NF = centered @ W_enc if b_enc is None else torch.addmm(b_enc, centered, W_enc)
        parts.append(threshold(z_NF, theta))
    return SparseCodes.cat(parts).reshape(*x.shape[:-1])
