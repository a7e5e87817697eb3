"""Null space tuning with hard thresholding and feedback."""

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.datafits import Quadratic
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, codes_of, joined
from sparsecode.solvers.supports import fitted_on, largest

ATOM_ENTRIES = 1 << 20  # of the atoms of all supports that are held at a time


class NullSpaceTuning(AbstractSolver):
    """Refit on the largest entries, then move to the nearest exact solution, in turn.

    ``u`` is the least squares code on the largest entries of z, and ``z = u + A^+ (x - A u)`` with
    A the matrix of atoms as columns. The pseudo-inverse in place of the transpose makes it
    insensitive to correlated atoms: what it can recover does not need a well-conditioned
    dictionary. Of all codes visited, each row keeps the one with the smallest error.

    Parameters
    ----------
    n_nonzero : int
        Most entries of a row; may exceed the number of atoms.
    adaptive : bool, default=True
        Whether the support grows by one entry an iteration, from one to `n_nonzero`, which needs
        no knowledge of the true number and recovers more; otherwise it has `n_nonzero` entries
        from the start and iterations end when it repeats.
    max_iter : int, default=200
        Most iterations for a support of fixed size.
    tol : float, default=1e-6
        A row is done when the norm of its residual is at most this share of the norm of the row.

    References
    ----------
    Li, Liu & Mi (2014), "Fast thresholding algorithms with feedbacks for sparse signal recovery".
    The adaptive form is described from its published summary, not from its text.

    Examples
    --------
    >>> NullSpaceTuning(1).solve(torch.tensor([[3.0, 0.1]]), torch.eye(2)).codes.to_dense()
    tensor([[3., 0.]])
    """

    needs_penalty = None
    needs_datafit = (Quadratic,)
    takes_start = False

    def __init__(
        self, n_nonzero: int, *, adaptive: bool = True, max_iter: int = 200, tol: float = 1e-6
    ) -> None:
        self.n_nonzero = check_int("n_nonzero", n_nonzero, low=1)
        self.adaptive = adaptive
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        n_rows, n_features = problem.x.shape
        most = min(self.n_nonzero, *problem.dictionary.shape)
        inverse_DF = torch.linalg.pinv(problem.dictionary)
        step = max(1, ATOM_ENTRIES // max(1, most * n_features))
        spans = [slice(first, first + step) for first in range(0, max(n_rows, 1), step)]
        return joined([self._part(problem.rows(span), inverse_DF, most) for span in spans])

    def _part(self, problem: Problem, inverse_DF: Tensor, most: int) -> SolverResult:
        dictionary_FD = problem.dictionary
        norm_N = problem.x.norm(dim=1)
        z_NF = problem.x @ inverse_DF
        best_NF, best_N = torch.zeros_like(z_NF), norm_N.clone()
        kept_NK, n_iter = None, 0
        open_N = best_N > self.tol * norm_N
        repeated_N = torch.zeros_like(open_N)
        n_steps = most if self.adaptive else self.max_iter
        for step in range(1, n_steps + 1):
            if not bool((open_N & ~repeated_N).any()):
                break
            support_NK = largest(z_NF, step if self.adaptive else most)
            values_NK, residual_ND = fitted_on(problem.x, dictionary_FD, support_NK)
            code_NF = torch.zeros_like(z_NF).scatter(1, support_NK, values_NK)
            error_N = residual_ND.norm(dim=1)
            better = (open_N & (error_N < best_N))[:, None]
            best_NF, best_N = code_NF.where(better, best_NF), error_N.where(better[:, 0], best_N)
            open_N = best_N > self.tol * norm_N
            if not self.adaptive:
                if kept_NK is not None:
                    repeated_N = repeated_N | (kept_NK == support_NK).all(1)
                # Supports decide what follows: to meet a kept one again ends a cycle of any length.
                kept_NK = support_NK if step & (step - 1) == 0 else kept_NK
            z_NF = code_NF + residual_ND @ inverse_DF
            n_iter = step
        stop_N = best_N / norm_N.where(norm_N > 0, 1.0)
        done_N = torch.ones_like(open_N) if self.adaptive else ~open_N | repeated_N
        return SolverResult(codes_of(best_NF), best_N.square() / 2, stop_N, n_iter, done_N)
