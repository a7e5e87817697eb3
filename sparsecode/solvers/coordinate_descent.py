"""Coordinate descent with working sets, on all rows at once."""

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.penalties import CoordinateSeparable, Subdifferentiable
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, codes_of

SWEEPS = 20  # over a working set before the other coordinates are looked at again


class CoordinateDescent(AbstractSolver):
    """Minimize over one coordinate of all rows after the other.

    Visits the coordinates that violate the optimality condition in some row, or are active in one,
    until these are optimal; then looks for others. The objective never rises.

    Parameters
    ----------
    max_iter : int, default=1000
        Most sweeps over a working set.
    tol : float, default=1e-6
        A row has converged when the largest distance to the subdifferential is at most this
        share of the largest entry of the gradient at 0.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), "Regularization paths for generalized linear models via
    coordinate descent". Bertrand et al. (2022), "Beyond l1: faster and better sparse models with
    skglm", algorithm 1. Differs from it in: no extrapolation; one working set for all rows.

    Examples
    --------
    >>> from sparsecode.penalties import MCP
    >>> x, solver = torch.tensor([[3.0, 0.1]]), CoordinateDescent()
    >>> solver.solve(x, torch.eye(2), penalty=MCP(1.0, gamma=2.0)).codes.to_dense()
    tensor([[3., 0.]])
    """

    needs_penalty = (CoordinateSeparable, Subdifferentiable)
    serves_instead = "FISTA"

    def __init__(self, *, max_iter: int = 1000, tol: float = 1e-6) -> None:
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        penalty = problem.penalty
        assert isinstance(penalty, Subdifferentiable)
        z_FN = problem.first().T.contiguous()
        norms_F = problem.dictionary.square().sum(1).tolist()
        correlation = problem.dictionary @ problem.x.T
        scale_N = correlation.abs().amax(0).clamp(min=torch.finfo(z_FN.dtype).tiny)
        residual_DN = (problem.x - z_FN.T @ problem.dictionary).T.contiguous()
        done = 0
        while True:
            gradient = -problem.dictionary @ residual_DN
            distance = penalty.subdiff_distance(z_FN, gradient) / scale_N
            stop_N = distance.amax(0)
            if bool((stop_N <= self.tol).all()) or done >= self.max_iter:
                break
            open_F = ((distance > self.tol / 2) | (z_FN != 0)).any(1)
            working = [j for j in open_F.nonzero().flatten().tolist() if norms_F[j] > 0]
            done += self._sweeps(problem, working, norms_F, z_FN, residual_DN, scale_N, done)
        z_NF = z_FN.T
        return SolverResult(
            codes_of(z_NF), problem.objective(z_NF), stop_N, done, stop_N <= self.tol
        )

    def _sweeps(
        self,
        problem: Problem,
        working: list[int],
        norms_F: list[float],
        z_FN: Tensor,
        residual_DN: Tensor,
        scale_N: Tensor,
        done: int,
    ) -> int:
        """Sweep over a working set, updating codes and residuals; return how often."""
        assert problem.penalty is not None
        for sweep in range(1, SWEEPS + 1):
            largest = torch.zeros_like(scale_N)
            for j in working:
                atom, step = problem.dictionary[j], 1 / norms_F[j]
                moved = z_FN[j] + step * (atom @ residual_DN)
                change = problem.penalty.prox(moved, step) - z_FN[j]
                residual_DN.addr_(atom, change, alpha=-1)
                z_FN[j] += change
                largest = torch.maximum(largest, change.abs() * norms_F[j])
            if done + sweep >= self.max_iter or bool((largest <= self.tol / 2 * scale_N).all()):
                return sweep
        return SWEEPS
