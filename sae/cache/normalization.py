"""The scale of rows: what to multiply them by before training."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsecode._checks import check_choice

KINDS = ("none", "mean_square", "per_feature")
SMALLEST = 1e-6  # of the largest deviation: below it a feature counts as constant


def row_scale(sample: Tensor, kind: str, blocks: Sequence[int]) -> list[float] | None:
    """Return the factors that bring rows to a common scale.

    Parameters
    ----------
    sample : Tensor of shape (N, D)
        Rows, in their own unit.
    kind : {"none", "mean_square", "per_feature"}
        "mean_square" makes the mean squared norm of a block the number of its features;
        "per_feature" makes the variance of each feature 1. Rows are not shifted.
    blocks : sequence of int
        Widths of the parts of a row that come from different places; they sum to D.

    Returns
    -------
    list of float or None
        One factor for each block or for each feature; None for "none". A block of zeros, and a
        feature that is constant beside the others, get a factor that keeps them small.

    Examples
    --------
    >>> row_scale(torch.tensor([[2.0, 2.0, 10.0], [2.0, -2.0, 10.0]]), "mean_square", [2, 1])
    [0.5, 0.1]
    """
    if check_choice("kind", kind, KINDS) == "none":
        return None
    rows = sample.double()
    if kind == "mean_square":
        squares = [part.square().mean() for part in rows.split(list(blocks), dim=1)]
        return [1.0 / math.sqrt(square) if square > 0 else 1.0 for square in map(float, squares)]
    factors: list[float] = []
    for part in rows.split(list(blocks), dim=1):
        deviation = (part - part.mean(0)).square().mean(0).sqrt()
        largest = float(deviation.max())
        if largest > 0:
            factors += (1.0 / deviation.clamp(min=SMALLEST * largest)).tolist()
        else:
            factors += [1.0] * part.shape[1]
    return factors


def per_column(scale: Sequence[float], blocks: Sequence[int]) -> Tensor:
    """Return the factors of `row_scale` as one for each column, float64 of shape (D,)."""
    factors = torch.tensor(scale, dtype=torch.float64)
    if len(factors) == sum(blocks):
        return factors
    return factors.repeat_interleave(torch.tensor(list(blocks)))
