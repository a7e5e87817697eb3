"""The minimax concave penalty, and CEL0, its member that is the exact relaxation of l0."""

import math
from dataclasses import dataclass

from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.penalties.base import AbstractPenalty, CoordinateSeparable, Subdifferentiable


@dataclass(frozen=True)
class MCP(AbstractPenalty, Subdifferentiable, CoordinateSeparable):
    """Minimax concave penalty: the l1 norm near 0, constant from ``gamma * alpha`` on.

    Adds ``alpha |z| - z^2 / (2 gamma)`` for ``|z| <= gamma alpha`` and ``gamma alpha^2 / 2``
    beyond.

    Parameters
    ----------
    alpha : float >= 0
        Slope at 0.
    gamma : float > 0, default=3.0
        How slowly the penalty levels off; infinity would be the l1 norm.

    References
    ----------
    Zhang (2010), "Nearly unbiased variable selection under minimax concave penalty". The proximal
    operator is the firm threshold for ``step < gamma`` and a hard threshold from there on.

    Examples
    --------
    >>> import torch
    >>> MCP(1.0, gamma=3.0).prox(torch.tensor([4.0, 2.0, 0.9]), step=1.0)
    tensor([4.0000, 1.5000, 0.0000])
    """

    alpha: float
    gamma: float = 3.0

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        check_float("gamma", self.gamma, low=0.0, open_low=True)

    def value(self, z: Tensor) -> Tensor:
        """Return the sum over all entries."""
        size = z.abs().clamp(max=self.gamma * self.alpha)
        return (self.alpha * size - size.square() / (2 * self.gamma)).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the firm or hard threshold of each entry."""
        size = z.abs()
        if step >= self.gamma:
            return z.masked_fill(size <= self.alpha * math.sqrt(self.gamma * step), 0.0)
        shrunk = (size - self.alpha * step).clamp(min=0) / (1 - step / self.gamma)
        return z.sign() * shrunk.minimum(size)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of ``-gradient`` to the subdifferential, entry by entry."""
        slope = (self.alpha - z.abs() / self.gamma).clamp(min=0)
        at_zero = (gradient.abs() - self.alpha).clamp(min=0)
        return (gradient + z.sign() * slope).abs().where(z != 0, at_zero)


@dataclass(frozen=True)
class CEL0(AbstractPenalty, Subdifferentiable, CoordinateSeparable):
    """Continuous exact l0: has the global minima of ``alpha * ||z||_0``, and fewer local ones.

    Adds ``alpha - a^2 / 2 * (|z| - sqrt(2 alpha) / a)^2`` for ``|z| <= sqrt(2 alpha) / a`` and
    `alpha` beyond, a being `atom_norm`: MCP of slope ``a sqrt(2 alpha)`` with ``gamma = 1 / a^2``.

    Parameters
    ----------
    alpha : float >= 0
        Price of a non-zero entry, as in `L0`.
    atom_norm : float > 0, default=1.0
        Norm of the atoms; all atoms have the same.

    References
    ----------
    Soubies, Blanc-Feraud & Aubert (2015), "A continuous exact l0 penalty (CEL0) for least squares
    regularized problem". Rentzeperis et al. (2023), "Beyond l1 sparse coding in V1".
    arXiv:2301.10002.

    Examples
    --------
    >>> import torch
    >>> CEL0(0.5).prox(torch.tensor([2.0, 0.75, 0.4]), step=0.5)
    tensor([2.0000, 0.5000, 0.0000])
    """

    alpha: float
    atom_norm: float = 1.0

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        check_float("atom_norm", self.atom_norm, low=0.0, open_low=True)

    def value(self, z: Tensor) -> Tensor:
        """Return the sum over all entries."""
        end = math.sqrt(2 * self.alpha) / self.atom_norm
        missing = (end - z.abs()).clamp(min=0)
        return (self.alpha - self.atom_norm**2 / 2 * missing.square()).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return the threshold of each entry; hard if ``step * atom_norm^2 >= 1``."""
        size, curvature = z.abs(), self.atom_norm**2 * step
        if curvature >= 1:
            return z.masked_fill(size <= math.sqrt(2 * self.alpha * step), 0.0)
        threshold = math.sqrt(2 * self.alpha) * self.atom_norm * step
        return z.sign() * ((size - threshold).clamp(min=0) / (1 - curvature)).minimum(size)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of ``-gradient`` to the subdifferential, entry by entry."""
        slope_at_zero = math.sqrt(2 * self.alpha) * self.atom_norm
        slope = (slope_at_zero - self.atom_norm**2 * z.abs()).clamp(min=0)
        at_zero = (gradient.abs() - slope_at_zero).clamp(min=0)
        return (gradient + z.sign() * slope).abs().where(z != 0, at_zero)
