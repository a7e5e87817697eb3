"""The loop that proximal gradient methods share: rows that have converged are left out."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sparsecode.solvers.base import Problem, SolverResult, codes_of

OPEN_SHARE = 0.9  # when fewer of the rows are open, the others are left out


class ProximalSteps(ABC):
    """One iteration of a proximal method on the rows that are left."""

    @abstractmethod
    def begin(self, z_NF: Tensor) -> tuple[Tensor, ...]:
        """Return the state of each row; the codes come first."""

    @abstractmethod
    def step(
        self, problem: Problem, state: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the next state, and the size of each row's gradient mapping."""


def iterate(problem: Problem, method: ProximalSteps, max_iter: int, tol: float) -> SolverResult:
    """Run proximal steps on all rows, leaving out those that have converged."""
    z_NF = problem.first()
    n_rows = z_NF.shape[0]
    stop_N = z_NF.new_full((n_rows,), math.inf)
    scale_N = problem.gradient(torch.zeros_like(z_NF)).abs().amax(1) if n_rows else stop_N
    left, running, done = torch.arange(n_rows, device=z_NF.device), problem, 0
    state, open_N = method.begin(z_NF), torch.ones_like(stop_N, dtype=torch.bool)
    while done < max_iter and bool(open_N.any()):
        state, stop = method.step(running, state)
        done += 1
        stop = stop / scale_N[left].where(scale_N[left] > 0, 1.0)
        ids = left[open_N]
        z_NF[ids], stop_N[ids] = state[0][open_N], stop[open_N]
        open_N = open_N & (stop > tol)
        if int(open_N.sum()) < OPEN_SHARE * len(left):
            left, state = left[open_N], tuple(part[open_N] for part in state)
            running, open_N = running.rows(open_N.nonzero().flatten()), open_N[open_N]
    return SolverResult(codes_of(z_NF), problem.objective(z_NF), stop_N, done, stop_N <= tol)
