"""Muon from PyTorch for matrices, Adam for everything else, with the constraint on rows."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from sparsecode._checks import check_float


class MuonAdam(torch.optim.Optimizer):
    """`torch.optim.Muon` on parameters with two axes, `torch.optim.Adam` on all others.

    Muon makes the averaged gradient of a matrix orthogonal by five Newton-Schulz steps, so that
    all its directions move alike. Gradients are dense, from autograd.

    Parameters
    ----------
    params : iterable of dict
        Groups as `RowAdam` takes them, with ``latent_dim`` and ``unit_norm``.
    lr : float, default=1e-3
        Of both parts.
    betas : pair of float, default=(0.9, 0.999)
        Of Adam.
    eps : float, default=1e-8
    momentum : float, default=0.95
        Of Muon, in Nesterov's form.
    adjust : {"match_rms_adamw", "original"}, default="match_rms_adamw"
        How Muon's step follows the shape of a matrix; the default makes entries move about as
        under Adam, so that learning rates carry over.

    References
    ----------
    Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks". The size of
    the step: Liu et al. (2025), "Muon is scalable for LLM training". arXiv:2502.16982.

    Examples
    --------
    >>> W, b = torch.nn.Parameter(torch.eye(2)), torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = MuonAdam([{"params": [W]}, {"params": [b]}], lr=0.1)
    >>> (W.square().sum() + (b - 1).square().sum()).backward()
    >>> optimizer.step()
    >>> b.detach()
    tensor([0.1000, 0.1000])
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        momentum: float = 0.95,
        adjust: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
    ) -> None:
        check_float("lr", lr, low=0.0)
        self.momentum = check_float("momentum", momentum, low=0.0, high=1.0)
        defaults = {"lr": lr, "betas": betas, "eps": eps, "latent_dim": None, "unit_norm": False}
        super().__init__(params, defaults)
        everything = [p for group in self.param_groups for p in group["params"]]
        matrices = [p for p in everything if p.ndim == 2]
        others = [p for p in everything if p.ndim != 2]
        self._muon = self._adam = None
        if matrices:
            self._muon = torch.optim.Muon(
                matrices, weight_decay=0.0, momentum=momentum, nesterov=True, adjust_lr_fn=adjust
            )
        if others:
            self._adam = torch.optim.Adam(others)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Project gradients of unit-norm rows, take both steps, scale the rows back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        constrained = self._unit_norm_rows()
        for rows, gradient in constrained:
            gradient.sub_((gradient * rows).sum(1, keepdim=True) * rows)
        for part in (self._muon, self._adam):
            if part is not None:
                self._take(part)
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

    def _take(self, part: torch.optim.Optimizer) -> None:
        """Let a part take its step with the learning rates and the state of the whole."""
        shared = ("lr", "betas", "eps") if part is self._adam else ("lr",)
        groups = []
        for group in self.param_groups:
            chosen = [p for p in group["params"] if (p.ndim == 2) == (part is self._muon)]
            own = {name: group[name] for name in shared}
            groups.append({**part.param_groups[0], **own, "params": chosen})
        part.param_groups, part.state = groups, self.state
        part.step()

    def _unit_norm_rows(self) -> list[tuple[Tensor, Tensor]]:
        """Return the weights and gradients of unit-norm dictionaries, one atom a row, as views."""
        views = []
        for group in self.param_groups:
            for parameter in group["params"] if group.get("unit_norm") else ():
                if parameter.grad is not None:
                    pair = (parameter.detach(), parameter.grad)
                    views.append(tuple(t.t() for t in pair) if group["latent_dim"] == 1 else pair)
        return views
