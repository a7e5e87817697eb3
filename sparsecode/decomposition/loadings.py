"""The settings of a sparse PCA problem, checked together, and the solver that they name."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sparsecode._checks import check_choice, check_float, check_int
from sparsecode.decomposition.elastic_net import alternating_elastic_net
from sparsecode.decomposition.proximal_gradient import alternating_proximal_gradient
from sparsecode.decomposition.truncated_power import truncated_power
from sparsecode.penalties import L1, AbstractPenalty

SOLVERS = ("elastic_net", "proximal_gradient", "tpower")


class Solution(NamedTuple):
    """Loadings of shape (K, P), of any norm; the course of the objective; iterations."""

    loadings: Tensor
    errors: list[float]
    n_iter: int


@dataclass(frozen=True, kw_only=True)
class LoadingsProblem:
    """Which loadings to look for, and how. The fields are the parameters of `SparsePCA`."""

    solver: str
    alpha: float | None
    n_nonzero: int | None
    l2_alpha: float
    penalty: AbstractPenalty | None
    max_iter: int
    tol: float

    def __post_init__(self) -> None:
        check_choice("solver", self.solver, SOLVERS)
        check_float("l2_alpha", self.l2_alpha, low=0.0)
        check_int("max_iter", self.max_iter, low=1)
        check_float("tol", self.tol, low=0.0)
        if self.alpha is not None:
            check_float("alpha", self.alpha, low=0.0)
        if self.penalty is not None and not isinstance(self.penalty, AbstractPenalty):
            raise TypeError(f"`penalty` must be an AbstractPenalty or None; got {self.penalty!r}.")
        self._check_together()

    def _check_together(self) -> None:
        given = [
            name for name in ("alpha", "n_nonzero", "penalty") if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(
                f"Only one of `alpha`, `n_nonzero` and `penalty` may be set; got {given}."
            )
        if self.penalty is not None and self.solver != "proximal_gradient":
            raise ValueError(
                f"`penalty` must be None for solver={self.solver!r}; got {self.penalty!r}. "
                'Use solver="proximal_gradient".'
            )
        if self.l2_alpha and self.solver != "elastic_net":
            raise ValueError(
                f"`l2_alpha` must be 0 for solver={self.solver!r}; got {self.l2_alpha}. "
                'Use solver="elastic_net".'
            )
        if self.solver == "tpower" and self.n_nonzero is None:
            raise ValueError(
                '`n_nonzero` must be set for solver="tpower", which has no l1 norm; got None. '
                'Set it, or use solver="elastic_net".'
            )

    def solve(self, rows: Tensor, start: Tensor) -> Solution:
        """Run the solver on principal rows (R, P) from loadings (K, P)."""
        alpha = 1.0 if self.alpha is None else float(self.alpha)
        if rows.shape[0] == 0:
            return Solution(torch.zeros_like(start), [0.0], 1)
        if self.solver == "tpower":
            found = truncated_power(
                rows,
                n_components=start.shape[0],
                n_nonzero=self.n_nonzero or 1,
                max_iter=self.max_iter,
            )
            return Solution(found.components, found.residuals, found.n_iter)
        limits = {"n_nonzero": self.n_nonzero, "max_iter": self.max_iter, "tol": float(self.tol)}
        if self.solver == "elastic_net":
            done = alternating_elastic_net(
                rows, start, alpha=alpha, l2=float(self.l2_alpha), **limits
            )
        else:
            penalty = L1(alpha) if self.penalty is None and self.n_nonzero is None else self.penalty
            done = alternating_proximal_gradient(rows, start, penalty=penalty, **limits)
        return Solution(done.loadings, done.objectives, len(done.objectives))

    @property
    def n_kept(self) -> int:
        """Loadings that an unused component gets."""
        return 1 if self.n_nonzero is None else self.n_nonzero


def unit_components(rows: Tensor, loadings: Tensor, n_kept: int) -> tuple[Tensor, int]:
    """Return loadings of unit norm, and how many vanished and were replaced.

    A row of zeros gets `n_kept` equal loadings on the features that the span of the other rows
    leaves most of, no feature twice as long as there are enough.
    """
    used = loadings.abs().amax(1) > 0
    components = loadings / loadings.norm(dim=1, keepdim=True).clamp(
        min=torch.finfo(loadings.dtype).tiny
    )
    if bool(used.all()):
        return components, 0
    span = torch.linalg.qr(components[used].T)[0]
    left = (rows.T - span @ (span.T @ rows.T)).square().sum(1)
    for j in (~used).nonzero().flatten().tolist():
        features = torch.sort(left, descending=True, stable=True).indices[:n_kept]
        components[j, features] = n_kept**-0.5
        left[features] -= 1 + left.max()
    return components, int((~used).sum())
