"""Orthogonal matching pursuit, batched over rows."""

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.codes import SparseCodes
from sparsecode.datafits import MaskedQuadratic, Quadratic
from sparsecode.ops.decode import decode
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, joined
from sparsecode.solvers.cholesky_omp import cholesky_omp

BASIS_ENTRIES = 1 << 20  # of the orthonormal bases that are held at a time


class OMP(AbstractSolver):
    """Add the atom that correlates most with the residual, then refit all chosen atoms.

    With `MaskedQuadratic` only observed entries count; atoms are then cut to these without being
    scaled to unit norm again.

    Parameters
    ----------
    n_nonzero : int
        Most atoms of a row; fewer where the residual vanishes first or all atoms left depend on
        the chosen ones. May exceed the number of atoms.
    tol : float, default=0.0
        A row is done when the squared norm of its residual is at most this.

    Notes
    -----
    Rows are solved with the inverse Cholesky factor of the chosen atoms' Gram matrix. Where
    rounding could show (atoms that nearly depend on each other, rows explained almost exactly, and
    hidden entries), an orthonormal basis of the chosen atoms takes its place (Gram-Schmidt, done
    twice), which does not square their condition. Atoms that tie go to the lower index.

    References
    ----------
    Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit: recursive function
    approximation with applications to wavelet decomposition".

    Examples
    --------
    >>> OMP(1).solve(torch.tensor([[3.0, 0.1]]), torch.eye(2)).codes.to_dense()
    tensor([[3., 0.]])
    """

    needs_penalty = None
    needs_datafit = (Quadratic, MaskedQuadratic)
    takes_start = False

    def __init__(self, n_nonzero: int, *, tol: float = 0.0) -> None:
        self.n_nonzero = check_int("n_nonzero", n_nonzero, low=1)
        self.tol = check_float("tol", tol, low=0.0)

    def _solve(self, problem: Problem) -> SolverResult:
        n_atoms, n_features = problem.dictionary.shape
        n_steps = min(self.n_nonzero, n_atoms, n_features)
        if isinstance(problem.datafit, MaskedQuadratic):
            return self._careful(problem, n_steps)
        picks = cholesky_omp(problem.x, problem.dictionary, n_steps, self.tol)
        chosen_NK, values_NK, n_done = picks.chosen, picks.values, picks.n_done
        careful = (~picks.sound).nonzero().flatten()
        if len(careful):
            again = self._careful(problem.rows(careful), n_steps)
            chosen_NK[careful], values_NK[careful] = again.codes.indices, again.codes.values
            n_done = max(n_done, again.n_iter)
        codes = SparseCodes._trusted(values_NK, chosen_NK.where(values_NK != 0, 0), n_atoms)
        error_N = (problem.x - decode(codes, problem.dictionary)).square().sum(1)
        converged = torch.ones_like(error_N, dtype=torch.bool)
        return SolverResult(codes, error_N / 2, error_N, n_done, converged)

    def _careful(self, problem: Problem, n_steps: int) -> SolverResult:
        """Solve with an orthonormal basis of the chosen atoms of each row, part by part."""
        n_rows, n_features = problem.x.shape
        step = max(1, BASIS_ENTRIES // max(1, n_steps * n_features))
        spans = [slice(first, first + step) for first in range(0, max(n_rows, 1), step)]
        return joined([self._with_basis(problem.rows(span), n_steps) for span in spans])

    def _with_basis(self, problem: Problem, n_steps: int) -> SolverResult:
        dictionary_FD, n_atoms = problem.dictionary, len(problem.dictionary)
        n_features = dictionary_FD.shape[1]
        mask = problem.datafit.mask if isinstance(problem.datafit, MaskedQuadratic) else None
        residual_ND = problem.x if mask is None else problem.x * mask
        n_rows = len(residual_ND)
        chosen_NK = torch.zeros(n_rows, n_steps, dtype=torch.long, device=residual_ND.device)
        basis_NKD = residual_ND.new_zeros(n_rows, n_steps, n_features)
        upper_NKK = torch.eye(n_steps).to(residual_ND).repeat(n_rows, 1, 1)
        target_NK = residual_ND.new_zeros(n_rows, n_steps)
        taken_NF = torch.zeros(n_rows, n_atoms, dtype=torch.bool, device=residual_ND.device)
        tiny, n_done = 100 * torch.finfo(residual_ND.dtype).eps, 0
        floor_N = (tiny**2 * residual_ND.square().sum(1)).clamp(min=self.tol)  # below is rounding
        open_N = residual_ND.square().sum(1) > floor_N
        for k in range(n_steps):
            if not bool(open_N.any()):
                break
            correlation = (residual_ND @ dictionary_FD.T).abs_().masked_fill_(taken_NF, -1.0)
            pick_N = correlation.argmax(1)
            atom_ND = dictionary_FD[pick_N] if mask is None else dictionary_FD[pick_N] * mask
            new_ND, weights_NK, norm_N = _orthogonalized(atom_ND, basis_NKD[:, :k])
            open_N = open_N & (norm_N > tiny * atom_ND.norm(dim=1))
            new_ND = new_ND.where(open_N[:, None], 0.0)
            chosen_NK[:, k] = pick_N.where(open_N, 0)
            taken_NF |= torch.nn.functional.one_hot(pick_N, n_atoms).bool() & open_N[:, None]
            basis_NKD[:, k] = new_ND
            upper_NKK[:, :k, k] = weights_NK.where(open_N[:, None], 0.0)
            upper_NKK[:, k, k] = norm_N.where(open_N, 1.0)
            target_NK[:, k] = (residual_ND * new_ND).sum(1)
            residual_ND = residual_ND - target_NK[:, k, None] * new_ND
            open_N = open_N & (residual_ND.square().sum(1) > floor_N)
            n_done = k + 1
        values = torch.linalg.solve_triangular(upper_NKK, target_NK[..., None], upper=True)[..., 0]
        codes = SparseCodes._trusted(values, chosen_NK, n_atoms)
        error_N = residual_ND.square().sum(1)
        converged = torch.ones_like(open_N)
        return SolverResult(codes, error_N / 2, error_N, n_done, converged)


def _orthogonalized(atom_ND: Tensor, basis_NKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the unit part of atoms outside a basis, their weights in it, and the part's norm."""
    weights = torch.zeros_like(basis_NKD[..., 0])
    for _ in range(2):  # once is not enough for atoms that are nearly parallel
        again = (basis_NKD @ atom_ND[..., None])[..., 0]
        atom_ND = atom_ND - (again[:, None] @ basis_NKD)[:, 0]
        weights = weights + again
    norm_N = atom_ND.norm(dim=1)
    return atom_ND / norm_N.where(norm_N > 0, 1.0)[:, None], weights, norm_N
