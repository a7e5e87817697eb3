"""Coordinate descent with working sets, on all rows at once."""

from dataclasses import replace

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.ops.decode import decode
from sparsecode.penalties import L1, AbstractPenalty, CoordinateSeparable, Subdifferentiable
from sparsecode.solvers.active_sets import lasso_by_active_sets
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, codes_of

MOST_GRAM_ATOMS = 4096  # with more, the Gram matrix of the dictionary is not made
SWEEPS = 20  # over a working set before the other coordinates are looked at again


class CoordinateDescent(AbstractSolver):
    """Minimize over one coordinate of all rows after the other.

    Visits the coordinates that violate the optimality condition in some row, or are active in one,
    until these are optimal; then looks for others. The objective never rises. With `L1`, each row
    has a working set of its own, and sweeps alternate with Newton steps on its active coordinates.

    Parameters
    ----------
    max_iter : int, default=1000
        Most sweeps over a working set.
    tol : float, default=1e-6
        A row has converged when the largest distance to the subdifferential is at most this
        share of the largest entry of the gradient at 0. For penalties other than `L1`, the best
        move of a coordinate times its curvature takes the place of that distance.

    References
    ----------
    Friedman, Hastie & Tibshirani (2010), "Regularization paths for generalized linear models via
    coordinate descent". Bertrand et al. (2022), "Beyond l1: faster and better sparse models with
    skglm", algorithm 1. Differs from it in: no extrapolation; one working set for all rows, except
    with `L1`. Lee, Battle, Raina & Ng (2006), "Efficient sparse coding algorithms", for the Newton
    steps.

    Examples
    --------
    >>> from sparsecode.penalties import MCP
    >>> x, solver = torch.tensor([[3.0, 0.1]]), CoordinateDescent()
    >>> solver.solve(x, torch.eye(2), penalty=MCP(1.0, gamma=2.0)).codes.to_dense()
    tensor([[3., 0.]])
    """

    needs_penalty = (CoordinateSeparable, Subdifferentiable)

    def __init__(self, *, max_iter: int = 1000, tol: float = 1e-6) -> None:
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        penalty, n_atoms = problem.penalty, len(problem.dictionary)
        if not isinstance(penalty, L1) or penalty.alpha == 0 or not 0 < n_atoms <= MOST_GRAM_ATOMS:
            return self._on_all_rows(problem, self.max_iter)
        found = lasso_by_active_sets(
            problem.x, problem.dictionary, penalty.alpha, problem.first(), self.tol, self.max_iter
        )
        z_NF, stop_N, done = found.codes, found.stop_value, found.n_sweeps
        left = (stop_N > self.tol).nonzero().flatten()
        if len(left) and done < self.max_iter:
            rest = replace(problem, start=z_NF).rows(left)
            again = self._on_all_rows(rest, self.max_iter - done)
            z_NF[left], stop_N[left] = again.codes.to_dense(), again.stop_value
            done += again.n_iter
        codes = codes_of(z_NF)
        error_N = (problem.x - decode(codes, problem.dictionary)).square().sum(1)
        objective_N = error_N / 2 + penalty.alpha * z_NF.abs().sum(1)
        return SolverResult(codes, objective_N, stop_N, done, stop_N <= self.tol)

    def _on_all_rows(self, problem: Problem, max_iter: int) -> SolverResult:
        """Sweep over coordinates that are open in any row."""
        penalty = problem.penalty
        assert penalty is not None
        z_FN = problem.first().T.contiguous()
        norms_F = problem.dictionary.square().sum(1).tolist()
        correlation = problem.dictionary @ problem.x.T
        scale_N = correlation.abs().amax(0).clamp(min=torch.finfo(z_FN.dtype).tiny)
        residual_DN = (problem.x - z_FN.T @ problem.dictionary).T.contiguous()
        done = 0
        while True:
            gradient = -problem.dictionary @ residual_DN
            distance = _move_sizes(penalty, z_FN, gradient, norms_F) / scale_N
            stop_N = distance.amax(0)
            if bool((stop_N <= self.tol).all()) or done >= max_iter:
                break
            open_FN = ((distance > self.tol / 2) | (z_FN != 0)) & (stop_N > self.tol)
            done += self._sweeps(
                problem, open_FN, norms_F, z_FN, residual_DN, scale_N, max_iter - done
            )
        z_NF = z_FN.T
        return SolverResult(
            codes_of(z_NF), problem.objective(z_NF), stop_N, done, stop_N <= self.tol
        )

    def _sweeps(
        self,
        problem: Problem,
        open_FN: Tensor,
        norms_F: list[float],
        z_FN: Tensor,
        residual_DN: Tensor,
        scale_N: Tensor,
        most: int,
    ) -> int:
        """Sweep over each row's working set, updating codes and residuals; return how often."""
        assert problem.penalty is not None
        working = [j for j in open_FN.any(1).nonzero().flatten().tolist() if norms_F[j] > 0]
        for sweep in range(1, SWEEPS + 1):
            largest = torch.zeros_like(scale_N)
            for j in working:
                atom, step = problem.dictionary[j], 1 / norms_F[j]
                moved = z_FN[j] + step * (atom @ residual_DN)
                change = (problem.penalty.prox(moved, step) - z_FN[j]).where(open_FN[j], 0.0)
                residual_DN.addr_(atom, change, alpha=-1)
                z_FN[j] += change
                largest = torch.maximum(largest, change.abs() * norms_F[j])
            settled = largest <= self.tol / 2 * scale_N
            if sweep >= most or bool(settled.all()):
                return sweep
            open_FN &= ~settled
        return SWEEPS


def _move_sizes(
    penalty: AbstractPenalty, z_FN: Tensor, gradient_FN: Tensor, norms_F: list[float]
) -> Tensor:
    """Return how far the best move of each coordinate goes, times its curvature.

    For a convex penalty this is 0 where the distance to the subdifferential is. That
    distance says nothing at 0 for penalties with a corner of any steepness there, such as `L0`.
    """
    sizes_FN = torch.zeros_like(z_FN)
    for j, norm in enumerate(norms_F):
        if norm > 0:
            best_N = penalty.prox(z_FN[j] - gradient_FN[j] / norm, 1 / norm)
            sizes_FN[j] = (best_N - z_FN[j]).abs() * norm
    return sizes_FN
