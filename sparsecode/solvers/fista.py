"""Accelerated proximal gradient with restarts."""

from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.datafits import AbstractDatafit
from sparsecode.penalties import Convex
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult
from sparsecode.solvers.proximal_steps import ProximalSteps, iterate


class FISTA(AbstractSolver):
    """Accelerated proximal gradient; each row restarts its momentum when that points uphill.

    Serves every convex penalty and every datafit.

    Parameters
    ----------
    max_iter : int, default=2000
        Most iterations.
    tol : float, default=1e-5
        A row has converged when the largest entry of ``L (z_new - y)``, y being the point that the
        step was taken from, is at most this share of the largest entry of the gradient at 0.

    References
    ----------
    Beck & Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems". O'Donoghue & Candes (2015), "Adaptive restart for accelerated gradient schemes",
    section 3.2, the gradient scheme.

    Examples
    --------
    >>> import torch
    >>> from sparsecode.penalties import L1
    >>> FISTA().solve(torch.tensor([[3.0, 0.1]]), torch.eye(2), penalty=L1(1.0)).codes.to_dense()
    tensor([[2., 0.]])
    """

    needs_penalty = (Convex,)
    needs_datafit = (AbstractDatafit,)

    def __init__(self, *, max_iter: int = 2000, tol: float = 1e-5) -> None:
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        return iterate(problem, AcceleratedSteps(problem.lipschitz()), self.max_iter, self.tol)


class AcceleratedSteps(ProximalSteps):
    """Proximal gradient steps from a point ahead of the codes."""

    def __init__(self, lipschitz: float) -> None:
        self.step_size = 1 / lipschitz if lipschitz > 0 else 1.0

    def begin(self, z_NF: Tensor) -> tuple[Tensor, ...]:
        """Return the codes, the point ahead of them, and the momentum's counter."""
        return z_NF.clone(), z_NF.clone(), z_NF.new_ones(z_NF.shape[0])

    def step(
        self, problem: Problem, state: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Take a step from the point ahead, then move that on."""
        assert problem.penalty is not None
        z_NF, ahead_NF, count_N = state
        moved = ahead_NF - self.step_size * problem.gradient(ahead_NF)
        new_NF = problem.penalty.prox(moved, self.step_size)
        change = new_NF - z_NF
        uphill = ((ahead_NF - new_NF) * change).sum(1) > 0
        count_N = count_N.masked_fill(uphill, 1.0)
        next_N = (1 + (1 + 4 * count_N.square()).sqrt()) / 2
        stop = (new_NF - ahead_NF).abs().amax(1) / self.step_size
        ahead_NF = new_NF + ((count_N - 1) / next_N)[:, None] * change
        return (new_NF, ahead_NF, next_N), stop
