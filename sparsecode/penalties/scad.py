"""Smoothly clipped absolute deviation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.penalties.base import AbstractPenalty, CoordinateSeparable, Subdifferentiable


@dataclass(frozen=True)
class SCAD(AbstractPenalty, Subdifferentiable, CoordinateSeparable):
    """Penalty that is the l1 norm up to `alpha`, then levels off, and is constant from ``a alpha``.

    Parameters
    ----------
    alpha : float >= 0
        Slope at 0, and where the penalty begins to level off.
    a : float > 1, default=3.7
        The penalty is constant for ``|z| >= a * alpha``.

    References
    ----------
    Fan & Li (2001), "Variable selection via nonconcave penalized likelihood and its oracle
    properties", eq. (2.7) and (2.8). Differs from it in: any step, not 1 only.

    Examples
    --------
    >>> SCAD(1.0).prox(torch.tensor([4.0, 1.5, 0.9]), step=1.0)
    tensor([4.0000, 0.5000, 0.0000])
    """

    alpha: float
    a: float = 3.7

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        check_float("a", self.a, low=1.0, open_low=True)

    def value(self, z: Tensor) -> Tensor:
        """Return the sum over all entries."""
        return self._values(z.abs()).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the best of the minima on the three pieces of the penalty, entry by entry."""
        size, knee, end = z.abs(), self.alpha, self.a * self.alpha
        pieces = [(size - self.alpha * step).clamp(0.0, knee), size.clamp(min=end)]
        if step < self.a - 1:  # else the middle piece is concave and has no minimum inside
            middle = ((self.a - 1) * size - self.a * self.alpha * step) / (self.a - 1 - step)
            pieces.insert(1, middle.clamp(knee, end))
        candidates = torch.stack(pieces)
        costs = (candidates - size).square() / 2 + step * self._values(candidates)
        best = candidates.gather(0, costs.argmin(0, keepdim=True))[0]
        return z.sign() * best

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of ``-gradient`` to the subdifferential, entry by entry."""
        slope = ((self.a * self.alpha - z.abs()) / (self.a - 1)).clamp(0.0, self.alpha)
        at_zero = (gradient.abs() - self.alpha).clamp(min=0)
        return (gradient + z.sign() * slope).abs().where(z != 0, at_zero)

    def _values(self, size: Tensor) -> Tensor:
        """Return the penalty of each magnitude."""
        beyond = (size.clamp(max=self.a * self.alpha) - self.alpha).clamp(min=0)
        return self.alpha * size.clamp(max=self.a * self.alpha) - beyond.square() / (
            2 * (self.a - 1)
        )
