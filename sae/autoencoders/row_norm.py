"""Normalization of each row by its own statistics, and the way back."""

from typing import Literal

import torch
from torch import Tensor

from sparsecode._checks import check_choice

RowNorm = Literal["none", "layer_norm", "unit_norm"]
KINDS = ("none", "layer_norm", "unit_norm")
EPSILON = 1e-5  # added to the standard deviation, as in the checkpoints that ask for it


def check_row_norm(row_norm: str, n_features: int) -> str:
    """Return `row_norm` if rows of this width can be normalized so."""
    check_choice("row_norm", row_norm, KINDS)
    if row_norm == "layer_norm" and n_features < 2:
        raise ValueError(
            '`row_norm="layer_norm"` must have rows of at least 2 features to take a deviation of; '
            f"got n_features={n_features}."
        )
    return row_norm


def row_statistics(x: Tensor, row_norm: str) -> tuple[Tensor, Tensor] | None:
    """Return what is subtracted from each row and what it is then divided by.

    Parameters
    ----------
    x : Tensor of shape (..., D)
    row_norm : {"none", "layer_norm", "unit_norm"}
        "layer_norm" is ``(x - mean) / (std + 1e-5)`` with the unbiased deviation of the row,
        "unit_norm" is ``x sqrt(D) / ||x||``.

    Returns
    -------
    tuple of Tensor of shape (..., 1), or None
        None for "none". A row of zeros stays one.
    """
    if row_norm == "none":
        return None
    if row_norm == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).square().sum(-1, keepdim=True) / (x.shape[-1] - 1)
        return mean, variance.sqrt() + EPSILON
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.where(norm > 0, norm, 1.0) / x.shape[-1] ** 0.5
    return torch.zeros_like(scale), scale
