"""The l1 penalty, the convex one that gives exact zeros."""

from dataclasses import dataclass

from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.penalties.base import (
    AbstractPenalty,
    Convex,
    CoordinateSeparable,
    Subdifferentiable,
)


@dataclass(frozen=True)
class L1(AbstractPenalty, Subdifferentiable, CoordinateSeparable, Convex):
    """Soft-thresholding penalty ``alpha * ||z||_1``.

    Parameters
    ----------
    alpha : float >= 0
        Weight of the penalty.

    References
    ----------
    Tibshirani (1996), "Regression shrinkage and selection via the lasso".

    Examples
    --------
    >>> import torch
    >>> L1(0.5).prox(torch.tensor([2.0, -0.2, -1.0]), step=1.0)
    tensor([ 1.5000, -0.0000, -0.5000])
    """

    alpha: float

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)

    def value(self, z: Tensor) -> Tensor:
        """Return ``alpha * sum |z|``."""
        return self.alpha * z.abs().sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Shrink each entry towards zero by ``alpha * step``."""
        return z.sign() * (z.abs() - self.alpha * step).clamp(min=0)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return ``|gradient + alpha sign(z)|``, and ``(|gradient| - alpha)_+`` where z is 0."""
        at_zero = (gradient.abs() - self.alpha).clamp(min=0)
        return (gradient + self.alpha * z.sign()).abs().where(z != 0, at_zero)
