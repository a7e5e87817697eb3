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
        check_groups(self.groups)

    def value(self, z: Tensor) -> Tensor:
        """Return `alpha` times the sum of the norms of all groups."""
        return self.alpha * group_norms(z, self.groups).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Shrink the norm of each group by ``alpha * step``."""
        norms = group_norms(z, self.groups)[..., group_ids(z, self.groups)]
        factor = (1 - self.alpha * step / norms.where(norms > 0, 1.0)).clamp(min=0)
        return z * factor

    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return each entry's share of the distance; the shares of a group add as squares."""
        ids = group_ids(z, self.groups)
        norms, pulls = (group_norms(part, self.groups)[..., ids] for part in (z, gradient))
        smooth = (gradient + self.alpha * z / norms.where(norms > 0, 1.0)).abs()
        beyond = (1 - self.alpha / pulls.where(pulls > 0, 1.0)).clamp(min=0)
        return smooth.where(norms > 0, gradient.abs() * beyond)


def check_groups(groups: Sequence[int]) -> None:
    """Refuse groups that are not ids of at least one coordinate."""
    for group in groups:
        check_int("groups", group, low=0)
    if len(groups) == 0:
        raise ValueError("`groups` must hold the group of at least one coordinate; got none.")


def group_ids(z: Tensor, groups: Sequence[int]) -> Tensor:
    """Return the group of each coordinate of `z`."""
    check_last_dim("z", z, len(groups), "len(groups)")
    return torch.as_tensor(groups, dtype=torch.long, device=z.device)


def group_norms(z: Tensor, groups: Sequence[int]) -> Tensor:
    """Return the norm of each group, of shape (..., n_groups)."""
    ids = group_ids(z, groups)
    sums = z.new_zeros(*z.shape[:-1], int(ids.max()) + 1)
    return sums.index_add(-1, ids, z.square()).sqrt()
