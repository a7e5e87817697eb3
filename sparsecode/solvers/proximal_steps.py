"""The loop that proximal gradient methods share: rows that have converged are left out."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sparsecode.solvers.base import Problem, SolverResult, codes_of

COMPACT_EVERY = 10  # iterations between looks for rows that are done


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
    state = method.begin(z_NF)
    while done < max_iter and len(left):
        state, stop = method.step(running, state)
        done += 1
        stop_N[left] = stop / scale_N[left].where(scale_N[left] > 0, 1.0)
        open_rows = stop_N[left] > tol
        if done % COMPACT_EVERY == 0 or done == max_iter or not bool(open_rows.any()):
            z_NF[left] = state[0]
            keep = open_rows.nonzero().flatten()
            if len(keep) < len(left):
                left, state = left[keep], tuple(part[keep] for part in state)
                running = running.rows(keep)
    return SolverResult(codes_of(z_NF), problem.objective(z_NF), stop_N, done, stop_N <= tol)
