"""The l0 penalty: a price for each entry that is not zero, whatever its size."""

import math
from dataclasses import dataclass

from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.penalties.base import AbstractPenalty, CoordinateSeparable


@dataclass(frozen=True)
class L0(AbstractPenalty, CoordinateSeparable):
    """Hard-thresholding penalty: `alpha` times the number of entries that are not zero.

    It does not shrink what it keeps, and it is not convex: solvers end in a local minimum.

    Parameters
    ----------
    alpha : float >= 0
        Price of an entry.

    References
    ----------
    Blumensath & Davies (2008), "Iterative thresholding for sparse approximations", section 2.1.

    Examples
    --------
    >>> import torch
    >>> L0(0.5).prox(torch.tensor([2.0, -0.2, -1.5]), step=1.0)
    tensor([ 2.0000, -0.0000, -1.5000])
    """

    alpha: float

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)

    def value(self, z: Tensor) -> Tensor:
        """Return ``alpha * (number of entries that are not zero)``, in the dtype of `z`."""
        return self.alpha * (z != 0).sum().to(z.dtype)

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Set entries of size up to ``sqrt(2 * alpha * step)``, where both cost as much, to 0."""
        return z * (z.abs() > math.sqrt(2 * self.alpha * step))
