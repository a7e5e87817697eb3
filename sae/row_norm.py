"""Normalization of each row by its own statistics, and the way back."""

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from sparsecode._checks import check_choice

RowNorm = Literal["none", "layer_norm", "unit_norm"]
KINDS = ("none", "layer_norm", "unit_norm")
EPSILON = 1e-5  # added to the standard deviation, as in the checkpoints that ask for it


def check_row_norm(row_norm: str, n_features: int) -> RowNorm:
    """Return `row_norm` if rows of this width can be normalized so."""
    check_choice("row_norm", row_norm, KINDS)
    if row_norm == "layer_norm" and n_features < 2:
        raise ValueError(
            '`row_norm="layer_norm"` must have rows of at least 2 features to take a deviation of; '
            f"got n_features={n_features}."
        )
    return cast(RowNorm, row_norm)


class RowStatistics(NamedTuple):
    """Statistics of rows, each of shape (..., 1)."""

    shift: Tensor
    divisor: Tensor
    factor: Tensor
    """What normalized rows are multiplied by on their way back, before `shift` is added."""


def row_statistics(x: Tensor, row_norm: str) -> RowStatistics:
    """Return what rows are normalized by.

    Parameters
    ----------
    x : Tensor of shape (..., D)
    row_norm : {"layer_norm", "unit_norm"}
        "layer_norm" is ``(x - mean) / (std + 1e-5)`` with the unbiased deviation of the row, and
        back ``std y + mean``, as OpenAI, SAELens and Bussmann have it; "unit_norm" is
        ``x sqrt(D) / ||x||`` and its inverse. A row of zeros stays one.

    Returns
    -------
    RowStatistics
    """
    if row_norm == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).square().sum(-1, keepdim=True) / (x.shape[-1] - 1)
        return RowStatistics(mean, variance.sqrt() + EPSILON, variance.sqrt())
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = torch.where(norm > 0, norm, 1.0) / x.shape[-1] ** 0.5
    return RowStatistics(torch.zeros_like(scale), scale, scale)


def decoder_factor(x: Tensor, row_norm: str) -> Tensor:
    """Return what decoder rows are multiplied by where `x` is reconstructed.

    Parameters
    ----------
    x : Tensor of shape (..., D)
    row_norm : {"none", "layer_norm", "unit_norm"}

    Returns
    -------
    Tensor of shape (..., 1)

    Examples
    --------
    >>> decoder_factor(torch.tensor([[0.0, 6.0]]), "unit_norm")  # 6 / sqrt(2)
    tensor([[4.2426]])
    """
    return torch.ones_like(x[..., :1]) if row_norm == "none" else row_statistics(x, row_norm).factor
