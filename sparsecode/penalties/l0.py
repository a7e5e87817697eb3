"""The number of non-zero entries, as a penalty and as a bound on each row."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.penalties.base import AbstractPenalty, CoordinateSeparable, Subdifferentiable


@dataclass(frozen=True)
class L0(AbstractPenalty, Subdifferentiable, CoordinateSeparable):
    """Hard-thresholding penalty: `alpha` times the number of entries that are not zero.

    It does not shrink what it keeps, and it is not convex: solvers end in a local minimum.

    Parameters
    ----------
    alpha : float >= 0
        Price of a non-zero entry.

    References
    ----------
    Blumensath & Davies (2008), "Iterative thresholding for sparse approximations".

    Examples
    --------
    >>> L0(0.5).prox(torch.tensor([2.0, -0.9, -1.1]), step=1.0)
    tensor([ 2.0000,  0.0000, -1.1000])
    """

    alpha: float

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)

    def value(self, z: Tensor) -> Tensor:
        """Return `alpha` times the number of non-zero entries."""
        return self.alpha * (z != 0).sum().to(z.dtype)

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Set entries of magnitude up to ``sqrt(2 * alpha * step)`` to zero."""
        return z.masked_fill(z.abs() <= math.sqrt(2 * self.alpha * step), 0.0)

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return ``|gradient|``, and 0 where z is 0: the limiting subdifferential there is all."""
        return gradient.abs().masked_fill(z == 0, 0.0)


@dataclass(frozen=True)
class TopKBall(AbstractPenalty):
    """Constraint that each row has at most `k` non-zero entries.

    Parameters
    ----------
    k : int >= 0
        Entries that a row may keep.

    References
    ----------
    Blumensath & Davies (2009), "Iterative hard thresholding for compressed sensing".

    Examples
    --------
    >>> TopKBall(1).prox(torch.tensor([[2.0, -3.0], [1.0, 1.0]]), step=1.0)
    tensor([[ 0., -3.],
            [ 1.,  0.]])
    """

    k: int

    def __post_init__(self) -> None:
        check_int("k", self.k, low=0)

    def value(self, z: Tensor) -> Tensor:
        """Return 0, or infinity if a row has more than `k` non-zero entries."""
        broken = ((z != 0).sum(-1) > self.k).any()
        return z.new_zeros(()).masked_fill(broken, math.inf)

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Keep the `k` entries of largest magnitude of each row; ties go to the lower index."""
        kept = z.abs().sort(dim=-1, descending=True, stable=True).indices[..., : self.k]
        return torch.zeros_like(z).scatter(-1, kept, z.gather(-1, kept))
