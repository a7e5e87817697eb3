"""The lasso by least angle regression, as scikit-learn has it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.penalties import L1
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, codes_of


class LARS(AbstractSolver):
    """Follow the path of lasso solutions from zero down to the penalty, one row at a time.

    The path is scikit-learn's: exact up to rounding, on the CPU, in float64, and slow. It is here
    to check the others against; `CoordinateDescent` finds the same codes many times faster.

    Parameters
    ----------
    max_iter : int, default=1000
        Most steps of a path; each lets an atom in or out.
    tol : float, default=1e-6
        A row has converged when the largest distance to the subdifferential is at most this
        share of the largest entry of the gradient at 0.

    References
    ----------
    Efron, Hastie, Johnstone & Tibshirani (2004), "Least angle regression", section 3.1.

    Examples
    --------
    >>> LARS().solve(torch.tensor([[3.0, 0.1]]), torch.eye(2), penalty=L1(1.0)).codes.to_dense()
    tensor([[2., 0.]])
    """

    needs_penalty = (L1,)
    takes_start = False

    def __init__(self, *, max_iter: int = 1000, tol: float = 1e-6) -> None:
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        assert isinstance(problem.penalty, L1)
        x_ND, dictionary_FD = (part.cpu().double() for part in (problem.x, problem.dictionary))
        target_NF = x_ND @ dictionary_FD.T
        gram_FF = (dictionary_FD @ dictionary_FD.T).numpy()
        n_features, done = max(1, x_ND.shape[1]), 0
        z_NF = torch.zeros_like(target_NF)
        for row, target in enumerate(target_NF.numpy()):
            z_NF[row], steps = self._path(target, gram_FF, problem.penalty.alpha, n_features)
            done = max(done, steps)
        gradient_NF = z_NF @ torch.from_numpy(gram_FF) - target_NF
        scale_N = target_NF.abs().amax(1).clamp(min=torch.finfo(torch.float64).tiny)
        stop_N = problem.penalty.subdiff_distance(z_NF, gradient_NF).amax(1) / scale_N
        z_NF, stop_N = z_NF.to(problem.x), stop_N.to(problem.x)
        return SolverResult(
            codes_of(z_NF), problem.objective(z_NF), stop_N, done, stop_N <= self.tol
        )

    def _path(
        self, target_F: np.ndarray, gram_FF: np.ndarray, alpha: float, n_features: int
    ) -> tuple[Tensor, int]:
        """Return the end of a row's path, and its number of steps."""
        from sklearn.linear_model import lars_path_gram

        if not np.abs(target_F).max(initial=0.0) > alpha:
            return torch.zeros(len(target_F), dtype=torch.float64), 0
        found: Any = lars_path_gram(
            Xy=target_F,
            Gram=gram_FF,
            n_samples=n_features,  # its penalty is ours over the number of entries of a row
            alpha_min=alpha / n_features,  # pyright: ignore[reportArgumentType]
            max_iter=self.max_iter,
            method="lasso",
            return_path=False,
            return_n_iter=True,
        )
        _, _, codes_F, steps = found
        rounding = 100 * np.finfo(np.float64).eps * np.abs(codes_F).max()
        codes_F[np.abs(codes_F) <= rounding] = 0.0  # of atoms that leave where the path ends
        return torch.from_numpy(codes_F), int(steps)
