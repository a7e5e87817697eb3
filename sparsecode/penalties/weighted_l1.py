"""The l1 norm with a weight for each coordinate, optionally on non-negative codes only."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import check_finite, check_floating, check_last_dim
from sparsecode.penalties.base import AbstractPenalty, Convex, Subdifferentiable


@dataclass(frozen=True, eq=False)
class WeightedL1(AbstractPenalty, Subdifferentiable, Convex):
    """Penalty ``sum_j weights_j |z_j|``, infinite for negative entries if those are excluded.

    Parameters
    ----------
    weights : Tensor of shape (F,) or ()
        Weight of each coordinate, or one for all, at least 0.
    nonnegative : bool, default=False
        Whether only codes without negative entries are allowed.

    References
    ----------
    Zou (2006), "The adaptive lasso and its oracle properties".

    Examples
    --------
    >>> penalty = WeightedL1(torch.tensor([1.0, 0.0, 1.0]), nonnegative=True)
    >>> penalty.prox(torch.tensor([3.0, 0.5, -3.0]), step=1.0)
    tensor([2.0000, 0.5000, 0.0000])
    """

    weights: Tensor
    nonnegative: bool = False

    def __post_init__(self) -> None:
        weights = check_finite("weights", check_floating("weights", self.weights))
        if bool((weights < 0).any()):
            raise ValueError(f"`weights` must be at least 0; got {float(weights.min()):g}.")

    def value(self, z: Tensor) -> Tensor:
        """Return ``sum weights |z|``, or infinity if a negative entry is not allowed."""
        value = (self._weights(z) * z.abs()).sum()
        if not self.nonnegative:
            return value
        return value.masked_fill((z < 0).any(), math.inf)

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Shrink each entry towards zero by ``weights * step``; negative ones become 0 if asked."""
        threshold = self._weights(z) * step
        if self.nonnegative:
            return (z - threshold).clamp(min=0)
        return z.sign() * (z.abs() - threshold).clamp(min=0)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of ``-gradient`` to the subdifferential, entry by entry."""
        weights = self._weights(z)
        pull = -gradient if self.nonnegative else gradient.abs()
        smooth = (gradient + weights * z.sign()).abs()
        distance = smooth.where(z != 0, (pull - weights).clamp(min=0))
        return distance.masked_fill(z < 0, math.inf) if self.nonnegative else distance

    def _weights(self, z: Tensor) -> Tensor:
        weights = torch.as_tensor(self.weights, dtype=z.dtype, device=z.device)
        if weights.ndim:
            check_last_dim("z", z, weights.shape[0], "len(weights)")
        return weights
