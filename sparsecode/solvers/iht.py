"""Normalized iterative hard thresholding."""

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, codes_of
from sparsecode.solvers.supports import largest

GROWTH = 0.99  # a step may be this share of the largest that cannot raise the error
MOST_HALVINGS = 30


class IHT(AbstractSolver):
    """Gradient steps of adapted length, each followed by keeping the largest entries.

    Parameters
    ----------
    n_nonzero : int
        Entries kept of a row; may exceed the number of atoms.
    max_iter : int, default=1000
        Most iterations.
    tol : float, default=1e-6
        A row has converged when a step changes its code by at most this share of its norm.

    References
    ----------
    Blumensath & Davies (2010), "Normalized iterative hard thresholding: guaranteed stability and
    performance", section III.

    Examples
    --------
    >>> IHT(1).solve(torch.tensor([[3.0, 0.1]]), torch.eye(2)).codes.to_dense()
    tensor([[3., 0.]])
    """

    needs_penalty = None

    def __init__(self, n_nonzero: int, *, max_iter: int = 1000, tol: float = 1e-6) -> None:
        self.n_nonzero = check_int("n_nonzero", n_nonzero, low=1)
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        k = min(self.n_nonzero, len(problem.dictionary))
        z_NF = self._kept(problem.first(), k)
        stop_N, done = torch.full_like(problem.x[:, 0], torch.inf), 0
        while done < self.max_iter and bool((stop_N > self.tol).any()):
            new_NF = self._step(problem, z_NF, k).where((stop_N > self.tol)[:, None], z_NF)
            size = new_NF.norm(dim=1).clamp(min=torch.finfo(z_NF.dtype).tiny)
            stop_N = stop_N.minimum((new_NF - z_NF).norm(dim=1) / size)
            z_NF, done = new_NF, done + 1
        return SolverResult(
            codes_of(z_NF), problem.objective(z_NF), stop_N, done, stop_N <= self.tol
        )

    def _step(self, problem: Problem, z_NF: Tensor, k: int) -> Tensor:
        """Return the next codes; the step is halved while the error could rise."""
        down_NF = -problem.gradient(z_NF)
        basis = z_NF.where((z_NF != 0).any(1, keepdim=True), down_NF)
        on_support = self._kept(basis, k) != 0
        inside = down_NF.where(on_support, 0.0)
        # Where the support is fitted exactly, nothing inside says how long a step may be.
        inside = inside.where((inside != 0).any(1, keepdim=True), down_NF)
        step_N = _share(inside, inside @ problem.dictionary)
        new_NF = self._kept(z_NF + step_N[:, None] * down_NF, k)
        for _ in range(MOST_HALVINGS):
            moved = new_NF - z_NF
            same = ((new_NF != 0) == (z_NF != 0)).all(1)
            too_long = ~same & (step_N > GROWTH * _share(moved, moved @ problem.dictionary))
            if not bool(too_long.any()):
                break
            step_N = step_N.where(~too_long, step_N / 2)
            new_NF = self._kept(z_NF + step_N[:, None] * down_NF, k)
        return new_NF

    @staticmethod
    def _kept(z_NF: Tensor, k: int) -> Tensor:
        ids = largest(z_NF, k)
        return torch.zeros_like(z_NF).scatter(1, ids, z_NF.gather(1, ids))


def _share(direction_NF: Tensor, effect_ND: Tensor) -> Tensor:
    """Return ``||direction||^2 / ||effect||^2``, 0 where there is no direction."""
    size, effect = direction_NF.square().sum(1), effect_ND.square().sum(1)
    return (size / effect.where(effect > 0, 1.0)).where(effect > 0, 0.0)
