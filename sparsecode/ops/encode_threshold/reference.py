"""Encoding with thresholds as it is defined: dense pre-activations, plain autograd."""

import torch
from torch import Tensor

from sparsecode.ops.activation import reference as activation


def encode_threshold(
    x_ND: Tensor, W_enc: Tensor, b_enc: Tensor | None, theta: Tensor, pre_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, ids and row boundaries of the pre-activations above `theta`."""
    centered = x_ND if pre_bias is None else x_ND - pre_bias
    z_NF = centered @ W_enc if b_enc is None else torch.addmm(b_enc, centered, W_enc)
    return activation.threshold(z_NF, theta)
