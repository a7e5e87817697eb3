"""Sets that codes or atoms must lie in; their proximal operators are projections."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.penalties.base import (
    AbstractPenalty,
    Convex,
    CoordinateSeparable,
    Subdifferentiable,
)

SLACK = 1e3  # units of rounding by which a projected row may miss its constraint


@dataclass(frozen=True)
class NonNegative(AbstractPenalty, Subdifferentiable, CoordinateSeparable, Convex):
    """Constraint that no entry is negative.

    Examples
    --------
    >>> NonNegative().prox(torch.tensor([1.0, -2.0]), step=1.0)
    tensor([1., 0.])
    """

    def value(self, z: Tensor) -> Tensor:
        """Return 0, or infinity if there is a negative entry."""
        return _zero_or_infinity(z, (z < 0).any())

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Set negative entries to 0."""
        return z.clamp(min=0)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return ``|gradient|``, its negative part where z is 0, infinity where z is negative."""
        distance = gradient.abs().where(z != 0, (-gradient).clamp(min=0))
        return distance.masked_fill(z < 0, math.inf)


@dataclass(frozen=True)
class Simplex(AbstractPenalty, Convex):
    """Constraint that each row is non-negative and sums to `total`.

    Parameters
    ----------
    total : float > 0, default=1.0
        Sum of a row.

    References
    ----------
    Duchi et al. (2008), "Efficient projections onto the l1-ball for learning in high dimensions",
    figure 1.

    Examples
    --------
    >>> Simplex().prox(torch.tensor([1.0, 0.5, -1.0]), step=1.0)
    tensor([0.7500, 0.2500, 0.0000])
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        check_float("total", self.total, low=0.0, open_low=True)

    def value(self, z: Tensor) -> Tensor:
        """Return 0, or infinity if a row is not in the simplex, up to rounding."""
        slack = SLACK * torch.finfo(z.dtype).eps * self.total
        off = ((z.sum(-1) - self.total).abs() > slack).any()
        return _zero_or_infinity(z, (z < 0).any() | off)

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the closest row of the simplex."""
        sizes = z.sort(-1, descending=True).values
        counts = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
        excess = (sizes.cumsum(-1) - self.total) / counts
        n_kept = (sizes > excess).sum(-1, keepdim=True).clamp(min=1)
        return (z - excess.gather(-1, n_kept - 1)).clamp(min=0)


@dataclass(frozen=True)
class UnitNorm(AbstractPenalty):
    """Constraint that each row has norm 1, as the atoms of a dictionary do.

    A row of zeros has no closest point; it becomes the first unit vector.

    Examples
    --------
    >>> UnitNorm().prox(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), step=1.0)
    tensor([[0.6000, 0.8000],
            [1.0000, 0.0000]])
    """

    def value(self, z: Tensor) -> Tensor:
        """Return 0, or infinity if the norm of a row is not 1, up to rounding."""
        off = (z.norm(dim=-1) - 1).abs() > SLACK * torch.finfo(z.dtype).eps
        return _zero_or_infinity(z, off.any())

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Divide each row by its norm."""
        first = torch.zeros_like(z)
        first[..., 0] = 1
        largest = z.abs().amax(-1, keepdim=True)
        scaled = z / largest.where(largest > 0, 1.0)  # so that squares neither vanish nor overflow
        norms = scaled.norm(dim=-1, keepdim=True)
        return (scaled / norms.where(largest > 0, 1.0)).where(largest > 0, first)


def _zero_or_infinity(z: Tensor, broken: Tensor) -> Tensor:
    return z.new_zeros(()).masked_fill(broken, math.inf)
