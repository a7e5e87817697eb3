"""The error at several budgets as it is defined: eager, any floating dtype, plain autograd."""

import torch
from torch import Tensor

from sparsecode.ops.decode import reference as decoding


def hierarchical_mse(
    values_NK: Tensor,
    indices_NK: Tensor,
    W_dec: Tensor,
    target_ND: Tensor,
    bias: Tensor | None,
    budgets: list[int],
    weights: list[float],
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of mean squared errors, and the reconstructions (J, N, D)."""
    n_rows = target_ND.shape[0]
    loss, recons = 0.0, []
    for budget, weight in zip(budgets, weights, strict=True):
        rows = torch.arange(n_rows, device=W_dec.device).repeat_interleave(budget)
        values, indices = (part[:, :budget].reshape(-1) for part in (values_NK, indices_NK))
        error, recon = decoding.decode_mse(values, indices, rows, W_dec, target_ND, bias)
        loss = loss + weight * error
        recons.append(recon)
    return torch.as_tensor(loss), torch.stack(recons)
