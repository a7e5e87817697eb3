"""Groups of coordinates that are zero together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int, check_last_dim
from sparsecode.penalties.base import AbstractPenalty, Convex, Subdifferentiable


@dataclass(frozen=True)
class GroupL21(AbstractPenalty, Subdifferentiable, Convex):
    """Penalty ``alpha * sum_g ||z_g||_2`` over disjoint groups g of coordinates.

    Parameters
    ----------
    alpha : float >= 0
        Weight of the penalty.
    groups : sequence of int, length F
        Group of each coordinate, counted from 0.

    References
    ----------
    Yuan & Lin (2006), "Model selection and estimation in regression with grouped variables".
    Differs from it in: no weight by group size.

    Examples
    --------
    >>> GroupL21(1.0, groups=[0, 0, 1]).prox(torch.tensor([3.0, 4.0, 0.5]), step=1.0)
    tensor([2.4000, 3.2000, 0.0000])
    """

    alpha: float
    groups: Sequence[int]

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        for group in self.groups:
            check_int("groups", group, low=0)

    def value(self, z: Tensor) -> Tensor:
        """Return `alpha` times the sum of the norms of all groups."""
        return self.alpha * self._norms(z).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Shrink the norm of each group by ``alpha * step``."""
        norms = self._norms(z)[..., self._ids(z)]
        factor = (1 - self.alpha * step / norms.where(norms > 0, 1.0)).clamp(min=0)
        return z * factor

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return each entry's share of the distance; the shares of a group add as squares."""
        ids = self._ids(z)
        norms, pulls = self._norms(z)[..., ids], self._norms(gradient)[..., ids]
        smooth = (gradient + self.alpha * z / norms.where(norms > 0, 1.0)).abs()
        beyond = (1 - self.alpha / pulls.where(pulls > 0, 1.0)).clamp(min=0)
        return smooth.where(norms > 0, gradient.abs() * beyond)

    def _ids(self, z: Tensor) -> Tensor:
        check_last_dim("z", z, len(self.groups), "len(groups)")
        return torch.tensor(self.groups, device=z.device)

    def _norms(self, z: Tensor) -> Tensor:
        """Return the norm of each group, of shape (..., n_groups)."""
        member = torch.nn.functional.one_hot(self._ids(z), max(self.groups) + 1).to(z.dtype)
        return (z.square() @ member).sqrt()
