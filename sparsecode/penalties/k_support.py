"""The convex envelope of "at most k groups" on a ball: the squared k-support norm."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.penalties.base import AbstractPenalty, Convex
from sparsecode.penalties.group import check_groups, group_ids, group_norms


@dataclass(frozen=True)
class GroupKSupport(AbstractPenalty, Convex):
    """Half the squared k-support norm of the norms of groups, times `alpha`.

    ``alpha / 2 * min { sum_g ||z_g||^2 / theta_g : 0 <= theta_g <= 1, sum_g theta_g <= k }``: the
    largest convex function below ``alpha / 2 ||z||^2`` of codes with at most `k` active groups. It
    shrinks the k largest groups like a ridge, and small ones to zero.

    Parameters
    ----------
    alpha : float >= 0
        Weight of the penalty.
    k : int >= 1
        Groups that cost no more than a ridge.
    groups : sequence of int of length F, or None, default=None
        Group of each coordinate, counted from 0; None makes each coordinate a group.

    References
    ----------
    Argyriou, Foygel & Srebro (2012), "Sparse prediction with the k-support norm", section 2.
    McDonald, Pontil & Stamos (2016), "New perspectives on k-support and cluster norms", eq. (4)
    and theorem 14, for the variational form and the proximal operator.

    Examples
    --------
    >>> penalty = GroupKSupport(1.0, k=1)
    >>> penalty.value(torch.tensor([3.0, 0.0])), penalty.value(torch.tensor([3.0, 1.0]))
    (tensor(4.5000), tensor(8.))
    >>> penalty.prox(torch.tensor([3.0, 1.0]), step=1.0)
    tensor([1.5000, 0.0000])
    """

    alpha: float
    k: int
    groups: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        check_int("k", self.k, low=1)
        if self.groups is not None:
            check_groups(self.groups)

    def value(self, z: Tensor) -> Tensor:
        """Return the sum over rows."""
        norms = self._norms(z)
        shares = _shares(norms, self.k, 0.0)
        return self.alpha / 2 * (norms.square() / shares.where(norms > 0, 1.0)).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        """Shrink each group by ``theta / (theta + alpha * step)``, theta as the formula has it."""
        if self.alpha * step == 0:
            return z.clone()
        shares = _shares(self._norms(z), self.k, self.alpha * step)
        factors = shares / (shares + self.alpha * step)
        return z * (factors if self.groups is None else factors[..., group_ids(z, self.groups)])

    def _norms(self, z: Tensor) -> Tensor:
        return z.abs() if self.groups is None else group_norms(z, self.groups)


def _shares(norms: Tensor, k: int, offset: float) -> Tensor:
    """Return ``clip(c * norms - offset, 0, 1)`` with c such that they sum to `k`, or all ones."""
    if norms.shape[-1] <= k:
        return torch.ones_like(norms)
    inverse = 1 / norms.where(norms > 0, 1.0)
    ends = torch.stack([offset * inverse, (1 + offset) * inverse])
    ends = ends.masked_fill(norms == 0, torch.inf)
    slopes = torch.stack([norms, -norms])
    # Between its sorted ends, the sum is linear in c.
    ends, slopes = (torch.cat(list(pair), -1) for pair in (ends, slopes))
    ends, order = ends.sort(-1)
    slope = slopes.gather(-1, order).cumsum(-1).clamp(min=0)
    first, gaps = ends[..., :1], ends.diff(dim=-1)
    rise = (slope[..., :-1] * gaps.nan_to_num(nan=0.0, posinf=0.0)).cumsum(-1)
    total = torch.cat([torch.zeros_like(first), rise], -1)
    place = (total < k).sum(-1, keepdim=True).clamp(1, total.shape[-1] - 1) - 1
    missing = (k - total.gather(-1, place)).clamp(min=0)
    tiny = torch.finfo(norms.dtype).tiny
    c = ends.gather(-1, place) + missing / slope.gather(-1, place).clamp(min=tiny)
    few = (norms > 0).sum(-1, keepdim=True) <= k
    shares = (c * norms - offset).clamp(0, 1)
    return shares.where(~few, (norms > 0).to(norms.dtype))
