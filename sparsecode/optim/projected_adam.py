"""Adam from PyTorch on dense gradients, with the constraint on rows of `RowAdam`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ProjectedAdam(torch.optim.Adam):
    """`torch.optim.Adam` between a projection of gradients and a rescaling of dictionary rows.

    The plain form of `RowAdam`, kept to compare with: dense gradients from autograd, three
    passes over the dictionary.

    Parameters
    ----------
    params : iterable of dict
        Groups as `RowAdam` takes them, with ``latent_dim`` and ``unit_norm``.
    lr : float, default=1e-3
    betas : pair of float, default=(0.9, 0.999)
    eps : float, default=1e-8

    Examples
    --------
    >>> W = torch.nn.Parameter(torch.eye(2))
    >>> optimizer = ProjectedAdam([{"params": [W], "latent_dim": 0, "unit_norm": True}], lr=0.1)
    >>> W.square().sum().backward()
    >>> optimizer.step()
    >>> W.detach()
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Project gradients of unit-norm rows, take Adam's step, scale the rows back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        constrained = [view for view in self._unit_norm_rows() if view[1] is not None]
        for rows, gradient in constrained:
            gradient.sub_((gradient * rows).sum(1, keepdim=True) * rows)
        super().step()
        for rows, _ in constrained:
            rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_(min=1e-30))
        return loss

    @torch.no_grad()
    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their joint 2-norm is at most `max_norm`; return the norm."""
        everything = [p for group in self.param_groups for p in group["params"]]
        return torch.nn.utils.clip_grad_norm_(everything, max_norm)

    def release(self) -> None:
        """Do nothing: autograd fills ``.grad`` throughout."""

    def _unit_norm_rows(self) -> list[tuple[Tensor, Tensor]]:
        """Return the weights and gradients of unit-norm dictionaries, one atom a row, as views."""
        views = []
        for group in self.param_groups:
            for parameter in group["params"] if group.get("unit_norm") else ():
                pair = (parameter.detach(), parameter.grad)
                turned = group["latent_dim"] == 1
                views.append(tuple(t.t() if turned and t is not None else t for t in pair))
        return views
