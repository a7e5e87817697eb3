"""Sparse Bayesian learning: a variance for every coefficient, by expectation maximization."""

import math
from typing import Literal

import torch
from torch import Tensor

from sparsecode._checks import check_choice, check_float, check_int
from sparsecode.datafits import Quadratic
from sparsecode.solvers.base import AbstractSolver, Problem, SolverResult, codes_of

METHODS = ("gamp", "exact")
MESSAGES = 50  # rounds of message passing between two updates of the variances
CHUNK_ENTRIES = 1 << 22  # of (rows, features, features) matrices held at a time
START_NOISE = 0.1  # of the mean square of a row, when the noise is to be learned


class SparseBayes(AbstractSolver):
    """Give every coefficient a Gaussian prior, and find the variances that explain each row best.

    Variances of coefficients that are not needed go to zero. The codes are posterior means, cut
    where they are negligible. There is no penalty and no number of entries to choose.

    Parameters
    ----------
    method : {"gamp", "exact"}, default="gamp"
        "exact" inverts a (D, D) matrix per row and iteration; "gamp" approximates the posterior by
        damped message passing, which needs products with the dictionary only.
    noise : float > 0 or None, default=None
        Standard deviation of the noise on every entry; None learns it for each row.
    max_iter : int, default=1000
        Most updates of the variances.
    tol : float, default=1e-4
        A row has converged when an update changes its code by at most this share of its norm.
    threshold : float, default=1e-3
        Entries of magnitude up to this share of the largest of their row become zero.

    References
    ----------
    Tipping (2001), "Sparse Bayesian learning and the relevance vector machine". Wipf & Rao (2004),
    "Sparse Bayesian learning for basis selection", eqs. (16)-(18). Al-Shoukairi, Schniter & Rao
    (2018), "A GAMP-based low complexity sparse Bayesian learning algorithm", algorithm 1.
    Differs from it in: a fixed number of messages between updates.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 0.0]])
    >>> SparseBayes(noise=0.01).solve(x, torch.eye(2)).codes.to_dense().round(decimals=2)
    tensor([[3., 0.]])
    """

    needs_penalty = None
    needs_datafit = (Quadratic,)
    takes_start = False

    def __init__(
        self,
        *,
        method: Literal["gamp", "exact"] = "gamp",
        noise: float | None = None,
        max_iter: int = 1000,
        tol: float = 1e-4,
        threshold: float = 1e-3,
    ) -> None:
        self.method = check_choice("method", method, METHODS)
        self.noise = None if noise is None else check_float("noise", noise, low=0.0, open_low=True)
        self.max_iter = check_int("max_iter", max_iter, low=1)
        self.tol = check_float("tol", tol, low=0.0)
        self.threshold = check_float("threshold", threshold, low=0.0, high=1.0)

    def _solve(self, problem: Problem) -> SolverResult:
        x_ND, dictionary_FD = problem.x, problem.dictionary
        size = dictionary_FD.shape[1] ** 2 if self.method == "exact" else 1
        parts = x_ND.split(max(1, CHUNK_ENTRIES // size))
        solved = [self._part(part, dictionary_FD) for part in parts]
        z_NF = torch.cat([z for z, _, _ in solved])
        stop_N = torch.cat([stop for _, stop, _ in solved])
        limit = self.threshold * z_NF.abs().amax(1, keepdim=True)
        z_NF = z_NF.masked_fill(z_NF.abs() <= limit, 0.0)
        n_iter = max(done for _, _, done in solved)
        return SolverResult(
            codes_of(z_NF), problem.objective(z_NF), stop_N, n_iter, stop_N <= self.tol
        )

    def _part(self, x_ND: Tensor, dictionary_FD: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return posterior means, the last relative changes, and the updates done."""
        posterior = (_Exact if self.method == "exact" else _Messages)(dictionary_FD)
        tiny = torch.finfo(x_ND.dtype).tiny
        power_N1 = x_ND.square().mean(1, keepdim=True).clamp(min=tiny)
        noise_N1 = START_NOISE * power_N1
        if self.noise is not None:
            noise_N1 = torch.full_like(power_N1, self.noise**2)
        ids, z_NF = torch.arange(len(x_ND), device=x_ND.device), posterior.start(x_ND)[0]
        gain = float(torch.linalg.matrix_norm(dictionary_FD, 2).square().clamp(min=tiny))
        state = (x_ND, noise_N1, torch.ones_like(z_NF) * power_N1 / gain, *posterior.start(x_ND))
        stop_N, done = torch.full_like(x_ND[:, 0], math.inf), 0
        stop_N[x_ND.abs().amax(1) == 0] = 0.0
        while done < self.max_iter and bool((stop_N > self.tol).any()):
            is_open = stop_N[ids] > self.tol
            if not bool(is_open.all()):
                ids, state = ids[is_open], tuple(part[is_open] for part in state)
            x, noise, gamma, *messages = state
            messages = posterior.update(x, noise, gamma, messages)
            mean, variance = messages[0], messages[1]
            size = mean.norm(dim=1).clamp(min=tiny)
            stop_N[ids] = (mean - z_NF[ids]).norm(dim=1) / size
            z_NF[ids], done = mean, done + 1
            if self.noise is None:
                well = (1 - variance / gamma).sum(1, keepdim=True)  # parameters that are determined
                left = (x - mean @ dictionary_FD).square().sum(1, keepdim=True)
                noise = ((left + noise * well) / x.shape[1]).clamp(min=1e-10 * power_N1[ids])
            gamma = (mean.square() + variance).clamp(min=tiny)
            state = (x, noise, gamma, *messages)
        return z_NF, stop_N, done


class _Exact:
    """The posterior of each row, by the inverse of the covariance of its entries."""

    def __init__(self, dictionary_FD: Tensor) -> None:
        self.dictionary_FD = dictionary_FD

    def start(self, x_ND: Tensor) -> tuple[Tensor, ...]:
        """Return means and variances to begin with."""
        zeros = x_ND.new_zeros(len(x_ND), len(self.dictionary_FD))
        return zeros, zeros.clone()

    def update(
        self, x_ND: Tensor, noise_N1: Tensor, gamma_NF: Tensor, _: list[Tensor]
    ) -> list[Tensor]:
        """Return means and variances."""
        atoms = self.dictionary_FD
        covariance = torch.einsum("nf,fd,fe->nde", gamma_NF, atoms, atoms)
        covariance.diagonal(dim1=1, dim2=2).add_(noise_N1)
        factor, _ = torch.linalg.cholesky_ex(covariance)
        half_NDF = torch.linalg.solve_triangular(factor, atoms.T[None], upper=False)
        target_ND1 = torch.linalg.solve_triangular(factor, x_ND[..., None], upper=False)
        mean_NF = gamma_NF * (half_NDF.mT @ target_ND1)[..., 0]
        variance_NF = gamma_NF - gamma_NF.square() * half_NDF.square().sum(1)
        return [mean_NF, variance_NF.clamp(min=0)]


class _Messages:
    """The posterior of each row, approximated by damped generalized message passing."""

    def __init__(self, dictionary_FD: Tensor) -> None:
        self.dictionary_FD, self.squares_FD = dictionary_FD, dictionary_FD.square()
        n, m = dictionary_FD.shape
        norm = float(torch.linalg.matrix_norm(dictionary_FD, 2) ** 2)
        total = max(float(dictionary_FD.square().sum()), torch.finfo(dictionary_FD.dtype).tiny)
        # The positive root of a th^2 + 2 (n - m) th - 4 n: more damping for worse conditions.
        a, b = 1.1 * m * n * norm / total, 2.0 * (n - m)
        root = (-b + math.sqrt(b * b + 16 * a * n)) / (2 * a) if a > 0 else 1.0
        self.damping = min(1.0, root)

    def start(self, x_ND: Tensor) -> tuple[Tensor, ...]:
        """Return means, variances, and scores of the entries."""
        zeros = x_ND.new_zeros(len(x_ND), len(self.dictionary_FD))
        return zeros, torch.ones_like(zeros), torch.zeros_like(x_ND)

    def update(
        self, x_ND: Tensor, noise_N1: Tensor, gamma_NF: Tensor, messages: list[Tensor]
    ) -> list[Tensor]:
        """Return means, variances and scores after some rounds of messages."""
        mean, variance, score = messages
        th, tiny = self.damping, torch.finfo(x_ND.dtype).tiny
        for _ in range(MESSAGES):
            spread_ND = (variance @ self.squares_FD).clamp(min=tiny)
            guess_ND = mean @ self.dictionary_FD - spread_ND * score
            weight_ND = 1 / (spread_ND + noise_N1)
            score = (1 - th) * score + th * (x_ND - guess_ND) * weight_ND
            width_NF = 1 / (weight_ND @ self.squares_FD.T).clamp(min=tiny)
            moved_NF = mean + width_NF * (score @ self.dictionary_FD.T)
            gain_NF = gamma_NF / (gamma_NF + width_NF)
            variance = width_NF * gain_NF
            mean = (1 - th) * mean + th * gain_NF * moved_NF
        return [mean, variance, score]
