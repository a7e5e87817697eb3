"""Matching pursuit, batched over rows."""

import torch

from sparsecode._checks import check_float, check_int
from sparsecode.datafits import Quadratic
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, codes_of


class MatchingPursuit(AbstractSolver):
    """Subtract from the residual its projection on the best atom, again and again.

    An atom may be picked more than once; its entries add up, so a row has at most `n_steps` of
    them. On an orthonormal dictionary this keeps the largest correlations.

    Parameters
    ----------
    n_steps : int
        Projections of a row.
    tol : float, default=0.0
        A row is done when the squared norm of its residual is at most this.

    References
    ----------
    Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries".

    Examples
    --------
    >>> MatchingPursuit(1).solve(torch.tensor([[3.0, 0.1]]), torch.eye(2)).codes.to_dense()
    tensor([[3., 0.]])
    """

    needs_penalty = None
    needs_datafit = (Quadratic,)
    takes_start = False

    def __init__(self, n_steps: int, *, tol: float = 0.0) -> None:
        self.n_steps = check_int("n_steps", n_steps, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        norms_F = problem.dictionary.norm(dim=1, keepdim=True)
        unit_FD = problem.dictionary / norms_F.where(norms_F > 0, 1.0)
        residual_ND = problem.x
        z_NF, n_done = problem.x.new_zeros(len(residual_ND), len(unit_FD)), 0
        for _ in range(self.n_steps):
            open_N = residual_ND.square().sum(1) > self.tol
            if not bool(open_N.any()):
                break
            correlation = residual_ND @ unit_FD.T
            pick_N = correlation.abs().argmax(1)
            size_N = correlation.gather(1, pick_N[:, None])[:, 0].where(open_N, 0.0)
            residual_ND = residual_ND - size_N[:, None] * unit_FD[pick_N]
            value_N = size_N / norms_F[pick_N, 0].clamp(min=torch.finfo(size_N.dtype).tiny)
            z_NF.scatter_add_(1, pick_N[:, None], value_N[:, None])  # an atom may be picked again
            n_done += 1
        error_N = residual_ND.square().sum(1)
        converged = torch.ones_like(error_N, dtype=torch.bool)
        return SolverResult(codes_of(z_NF), error_N / 2, error_N, n_done, converged)
