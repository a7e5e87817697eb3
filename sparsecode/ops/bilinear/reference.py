"""Bilinear features and selection as they are defined: eager, any floating dtype, autograd."""

import torch
from torch import Tensor

from sparsecode.ops.selection import reference as selection


def bilinear_features(
    x_ND: Tensor,
    left: Tensor,
    right: Tensor,
    b_left: Tensor | None,
    b_right: Tensor | None,
    pre_bias: Tensor | None,
    k: int,
    relu: bool,
) -> tuple[Tensor, Tensor]:
    """Return values and ids (N, k) of the largest products; makes the (N, F) matrices."""
    # A row with NaN has NaN products, but must not turn 0 * NaN into gradients of the weights.
    x_ND = x_ND if pre_bias is None else x_ND - pre_bias
    spoilt_N1 = x_ND.isnan().any(-1, keepdim=True)
    clean_ND = torch.where(spoilt_N1, 0.0, x_ND)
    u_NF, v_NF = clean_ND @ left.t(), clean_ND @ right.t()
    u_NF = u_NF if b_left is None else u_NF + b_left
    v_NF = v_NF if b_right is None else v_NF + b_right
    values, ids = selection.topk(torch.where(spoilt_N1, torch.nan, u_NF * v_NF), k)
    return (torch.relu(values) if relu else values), ids
