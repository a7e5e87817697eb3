"""Iterative soft thresholding and its like: proximal gradient steps without momentum."""

from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.datafits import AbstractDatafit
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult
from sparsecode.solvers.proximal_steps import ProximalSteps, iterate

SAFE = 0.99  # share of 1 / L, so that rounding does not raise the objective


class ISTA(AbstractSolver):
    """Proximal gradient: ``z <- prox(z - step * gradient, step)`` with ``step = 0.99 / L``.

    Serves every penalty and datafit. The objective never rises, also for penalties that are not
    convex; for these the result is a stationary point that depends on the start. With `L0` or
    `TopKBall` this is iterative hard thresholding, with `CEL0` or `LHalf` the method of the V1
    paper below.

    Parameters
    ----------
    max_iter : int, default=5000
        Most iterations.
    tol : float, default=1e-5
        A row has converged when the largest entry of ``(z_new - z) / step`` is at most this share
        of the largest entry of the gradient at 0.

    References
    ----------
    Daubechies, Defrise & De Mol (2004), "An iterative thresholding algorithm for linear inverse
    problems with a sparsity constraint". Rentzeperis et al. (2023), "Beyond l1 sparse coding in
    V1". Differs from it in: threshold and gradient have the same step.

    Examples
    --------
    >>> import torch
    >>> from sparsecode.penalties import L1
    >>> ISTA().solve(torch.tensor([[3.0, 0.1]]), torch.eye(2), penalty=L1(1.0)).codes.to_dense()
    tensor([[2., 0.]])
    """

    needs_penalty = ()
    needs_datafit = (AbstractDatafit,)

    def __init__(self, *, max_iter: int = 5000, tol: float = 1e-5) -> None:
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        return iterate(problem, PlainSteps(problem.lipschitz()), self.max_iter, self.tol)


class PlainSteps(ProximalSteps):
    """Proximal gradient steps."""

    def __init__(self, lipschitz: float) -> None:
        self.step_size = SAFE / lipschitz if lipschitz > 0 else 1.0

    def begin(self, z_NF: Tensor) -> tuple[Tensor, ...]:
        """Return the codes alone: there is no momentum."""
        return (z_NF.clone(),)

    def step(
        self, problem: Problem, state: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Take a step along the gradient, then the proximal operator."""
        assert problem.penalty is not None
        (z_NF,) = state
        moved = z_NF - self.step_size * problem.gradient(z_NF)
        new_NF = problem.penalty.prox(moved, self.step_size)
        return (new_NF,), (new_NF - z_NF).abs().amax(1) / self.step_size
