"""The two powers below 1 whose proximal operators have a closed form: 1/2 and 2/3."""

import math
from dataclasses import dataclass

from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.penalties.base import AbstractPenalty, CoordinateSeparable, Subdifferentiable


@dataclass(frozen=True)
class LHalf(AbstractPenalty, Subdifferentiable, CoordinateSeparable):
    """Half-thresholding penalty ``alpha * sum |z|^(1/2)``.

    Parameters
    ----------
    alpha : float >= 0
        Weight of the penalty.

    References
    ----------
    Xu, Chang, Xu & Zhang (2012), "L1/2 regularization: a thresholding representation theory and a
    fast solver", eq. (11). Differs from it in: the datafit has a factor 1/2, so that their lambda
    is ``2 * alpha * step``.

    Examples
    --------
    >>> import torch
    >>> LHalf(1.0).prox(torch.tensor([2.0, 1.4]), step=1.0)
    tensor([1.6054, 0.0000])
    """

    alpha: float

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)

    def value(self, z: Tensor) -> Tensor:
        """Return ``alpha * sum |z|^(1/2)``."""
        return self.alpha * z.abs().sqrt().sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the half-thresholded entries; 0 up to ``3/2 * (alpha * step)^(2/3)``."""
        weight = self.alpha * step
        size = z.abs()
        kept = size > 1.5 * weight ** (2 / 3)
        safe = size.where(kept, 3 * max(weight, 1.0) ** (2 / 3))
        angle = (weight / 4 * (safe / 3) ** -1.5).clamp(max=1.0).acos()
        shrunk = 2 / 3 * safe * (1 + (2 * math.pi / 3 - 2 / 3 * angle).cos())
        return (z.sign() * shrunk).where(kept, 0.0)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of ``-gradient`` to the limiting subdifferential; 0 where z is 0."""
        safe = z.abs().where(z != 0, 1.0)
        smooth = gradient + z.sign() * self.alpha / (2 * safe.sqrt())
        return smooth.abs().masked_fill(z == 0, 0.0)


@dataclass(frozen=True)
class LTwoThirds(AbstractPenalty, Subdifferentiable, CoordinateSeparable):
    """Penalty ``alpha * sum |z|^(2/3)``.

    Parameters
    ----------
    alpha : float >= 0
        Weight of the penalty.

    References
    ----------
    Cao, Sun & Xu (2013), "Fast image deconvolution using closed-form thresholding formulas of
    L_q (q = 1/2, 2/3) regularization". Differs from it in: the datafit has a factor 1/2, so that
    their lambda is ``2 * alpha * step``; the quartic is solved in other words.

    Examples
    --------
    >>> import torch
    >>> LTwoThirds(1.0).prox(torch.tensor([2.0, 1.2]), step=1.0)
    tensor([1.4047, 0.0000])
    """

    alpha: float

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)

    def value(self, z: Tensor) -> Tensor:
        """Return ``alpha * sum |z|^(2/3)``."""
        return self.alpha * (z.abs() ** (2 / 3)).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the thresholded entries; 0 up to ``2/3 * (3 (2 alpha step)^3)^(1/4)``."""
        weight = 2 * self.alpha * step
        if weight == 0:
            return z.clone()
        size = z.abs()
        threshold = 2 / 3 * (3 * weight**3) ** 0.25
        kept = size > threshold
        safe = size.where(kept, 2 * threshold)
        angle = (27 / 16 * safe**2 * weight**-1.5).clamp(min=1.0).acosh()
        root = 2 / math.sqrt(3) * weight**0.25 * (angle / 3).cosh().sqrt()
        shrunk = ((root + (2 * safe / root - root**2).clamp(min=0).sqrt()) / 2) ** 3
        return (z.sign() * shrunk).where(kept, 0.0)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of ``-gradient`` to the limiting subdifferential; 0 where z is 0."""
        safe = z.abs().where(z != 0, 1.0)
        smooth = gradient + z.sign() * self.alpha * 2 / 3 * safe ** (-1 / 3)
        return smooth.abs().masked_fill(z == 0, 0.0)
