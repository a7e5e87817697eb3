"""The elastic net: an l1 norm that also shrinks what it keeps."""

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
class ElasticNet(AbstractPenalty, Subdifferentiable, CoordinateSeparable, Convex):
    """The sum ``alpha * ||z||_1 + l2_alpha / 2 * ||z||^2``.

    Of strongly correlated entries it keeps all, where the l1 norm alone keeps any one of them.

    Parameters
    ----------
    alpha : float >= 0
        Weight of the l1 norm.
    l2_alpha : float >= 0
        Weight of half the squared l2 norm; 0 gives `L1`.

    References
    ----------
    Zou & Hastie (2005), "Regularization and variable selection via the elastic net", section 2. Its
    proximal operator: Parikh & Boyd (2014), "Proximal algorithms", section 6.5.3.

    Examples
    --------
    >>> import torch
    >>> ElasticNet(0.5, l2_alpha=1.0).prox(torch.tensor([2.5, -0.2, -1.0]), step=1.0)
    tensor([ 1.0000, -0.0000, -0.2500])
    """

    alpha: float
    l2_alpha: float

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        check_float("l2_alpha", self.l2_alpha, low=0.0)

    def value(self, z: Tensor) -> Tensor:
        """Return ``alpha * sum |z| + l2_alpha / 2 * sum z^2``."""
        return self.alpha * z.abs().sum() + 0.5 * self.l2_alpha * z.square().sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Shrink by ``alpha * step`` towards zero, then divide by ``1 + l2_alpha * step``."""
        shrunk = (z.abs() - self.alpha * step).clamp(min=0)
        return z.sign() * shrunk / (1 + self.l2_alpha * step)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return that of the l1 norm for ``gradient + l2_alpha z``."""
        at_zero = (gradient.abs() - self.alpha).clamp(min=0)
        return (gradient + self.l2_alpha * z + self.alpha * z.sign()).abs().where(z != 0, at_zero)
