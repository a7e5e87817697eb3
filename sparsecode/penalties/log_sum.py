"""The logarithm of magnitudes, the penalty that reweighted l1 minimizes."""

from dataclasses import dataclass

from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.penalties.base import AbstractPenalty, CoordinateSeparable, Subdifferentiable


@dataclass(frozen=True)
class LogSum(AbstractPenalty, Subdifferentiable, CoordinateSeparable):
    """Penalty ``alpha * sum log(1 + |z| / epsilon)``.

    Parameters
    ----------
    alpha : float >= 0
        Weight of the penalty.
    epsilon : float > 0, default=0.1
        Magnitude from which on the penalty grows like a logarithm.

    References
    ----------
    Candes, Wakin & Boyd (2008), "Enhancing sparsity by reweighted l1 minimization", section 2.3.

    Examples
    --------
    >>> import torch
    >>> LogSum(0.5, epsilon=1.0).prox(torch.tensor([3.0, 0.4]), step=1.0)
    tensor([2.8708, 0.0000])
    """

    alpha: float
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        check_float("epsilon", self.epsilon, low=0.0, open_low=True)

    def value(self, z: Tensor) -> Tensor:
        """Return ``alpha * sum log(1 + |z| / epsilon)``."""
        return self.alpha * (z.abs() / self.epsilon).log1p().sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the larger root of the stationary equation where it is better than 0."""
        size, weight = z.abs(), self.alpha * step
        inside = (size + self.epsilon).square() - 4 * weight
        root = ((size - self.epsilon + inside.clamp(min=0).sqrt()) / 2).clamp(min=0)
        cost = (root - size).square() / 2 + weight * (root / self.epsilon).log1p()
        kept = (inside >= 0) & (cost < size.square() / 2)
        return (z.sign() * root).where(kept, 0.0)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of ``-gradient`` to the subdifferential, entry by entry."""
        slope = self.alpha / (self.epsilon + z.abs())
        at_zero = (gradient.abs() - self.alpha / self.epsilon).clamp(min=0)
        return (gradient + z.sign() * slope).abs().where(z != 0, at_zero)
