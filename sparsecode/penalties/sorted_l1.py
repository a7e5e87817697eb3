"""The sorted l1 norm, which gives the largest magnitudes the largest weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from sparsecode._checks import check_float, check_last_dim
from sparsecode.penalties.base import AbstractPenalty, Convex


@dataclass(frozen=True)
class SortedL1(AbstractPenalty, Convex):
    """Penalty ``sum_i weights_i |z|_(i)``, where ``|z|_(1) >= |z|_(2) >= ...`` in each row.

    Parameters
    ----------
    weights : sequence of float, length F
        At least 0 and not increasing.

    Notes
    -----
    The proximal operator sorts on the device of the code and pools on the CPU, row by row.

    References
    ----------
    Bogdan et al. (2015), "SLOPE - adaptive variable selection via convex optimization",
    algorithm 3.

    Examples
    --------
    >>> SortedL1([2.0, 1.0]).prox(torch.tensor([3.0, -4.0]), step=1.0)
    tensor([ 2., -2.])
    """

    weights: Sequence[float]

    def __post_init__(self) -> None:
        for weight in self.weights:
            check_float("weights", weight, low=0.0)
        if any(first < second for first, second in pairwise(self.weights)):
            raise ValueError(f"`weights` must not increase; got {list(self.weights)}.")

    def value(self, z: Tensor) -> Tensor:
        """Return the sum over rows of the weighted, sorted magnitudes."""
        weights = z.new_tensor(self.weights)
        check_last_dim("z", z, len(weights), "len(weights)")
        return (z.abs().sort(-1, descending=True).values * weights).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the non-increasing fit to the sorted, shrunk magnitudes, put back in place."""
        weights = z.new_tensor(self.weights)
        check_last_dim("z", z, len(weights), "len(weights)")
        sizes, order = z.abs().sort(-1, descending=True)
        shrunk = (sizes - step * weights).reshape(-1, len(weights)).cpu().double().numpy()
        rows = [isotonic_regression(row, increasing=False).x for row in shrunk]
        fitted = torch.from_numpy(np.array(rows).reshape(shrunk.shape)).to(z).reshape(z.shape)
        return z.sign() * torch.zeros_like(z).scatter(-1, order, fitted.clamp(min=0))
