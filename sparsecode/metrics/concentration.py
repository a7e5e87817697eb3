"""How unevenly a row's activity is shared out: Gini coefficient and participation ratio."""

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import as_tensor
from sparsecode.codes import SparseCodes


def gini(codes: SparseCodes | Tensor | np.ndarray) -> float:
    """Return the Gini coefficient of the magnitudes, the mean over rows.

    ``1 - 2 sum_i |a|_(i) / ||a||_1 * (F - i + 1/2) / F`` over magnitudes in ascending order: 0 for
    a row whose entries all have the same size, (F - 1) / F for one with a single non-zero entry.

    Parameters
    ----------
    codes : SparseCodes, Tensor or array of shape (..., F)
        Entries of SparseCodes must not repeat an index within a row.

    Returns
    -------
    float
        Rows of zeros are left out; NaN if there is no other row.

    References
    ----------
    Hurley & Rickard (2009), "Comparing Measures of Sparsity", eq. (9). arXiv:0811.4706.

    Examples
    --------
    >>> gini(torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    0.375
    """
    width, sizes = _magnitudes(codes)
    ascending = sizes.sort(dim=1).values
    # Zeros come first, so that entries that are not held change no rank of those that are.
    held = ascending.shape[1]
    rank = torch.arange(width - held + 1, width + 1, device=sizes.device, dtype=sizes.dtype)
    weights = (width - rank + 0.5) / width
    totals = ascending.sum(1)
    rows = totals > 0
    return float((1 - 2 * (ascending[rows] @ weights) / totals[rows]).mean())


def participation_ratio(codes: SparseCodes | Tensor | np.ndarray) -> float:
    """Return ``(sum a^2)^2 / sum a^4``, the mean over rows: how many entries take part.

    Parameters
    ----------
    codes : SparseCodes, Tensor or array of shape (..., F)
        Entries of SparseCodes must not repeat an index within a row.

    Returns
    -------
    float
        k for rows with k equal entries; rows of zeros are left out; NaN if there is no other row.

    Examples
    --------
    >>> participation_ratio(torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    2.5
    """
    _, sizes = _magnitudes(codes)
    largest = sizes.amax(1, keepdim=True) if sizes.shape[1] else sizes.new_zeros(len(sizes), 1)
    rows = largest[:, 0] > 0
    squares = (sizes[rows] / largest[rows]).square()  # no overflow of the fourth power
    return float((squares.sum(1).square() / squares.square().sum(1)).mean())


def _magnitudes(codes: SparseCodes | Tensor | np.ndarray) -> tuple[int, Tensor]:
    """Return the width, and magnitudes (N, K), float64; entries that are left out are zeros."""
    if isinstance(codes, SparseCodes):
        return codes.width, codes.flatten().to_fixed().values.detach().double().abs()
    dense = torch.as_tensor(as_tensor(codes))
    if dense.ndim == 0:
        raise ValueError("`codes` must have shape (..., n_latents); got a single number.")
    return dense.shape[-1], dense.detach().reshape(-1, dense.shape[-1]).double().abs()
