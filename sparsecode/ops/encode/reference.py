"""Linear encoding and selection as they are defined: eager, any floating dtype, plain autograd."""

import torch
from torch import Tensor

from sparsecode.ops.selection import reference as selection


def encode_topk(
    x_ND: Tensor, W_enc: Tensor, b_enc: Tensor | None, k: int, pre_bias: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor]:
    """Return values and ids (N, k) of the largest pre-activations; makes the (N, F) matrix."""
    centered = x_ND if pre_bias is None else x_ND - pre_bias
    # A row with NaN has NaN pre-activations, but must not turn 0 * NaN into the gradient of W_enc.
    spoilt_N1 = centered.isnan().any(-1, keepdim=True)
    z_NF = torch.where(spoilt_N1, torch.nan, torch.where(spoilt_N1, 0.0, centered) @ W_enc)
    if b_enc is not None:
        z_NF = z_NF + b_enc
    values, ids = selection.topk(z_NF, k)
    return (torch.relu(values) if relu else values), ids
