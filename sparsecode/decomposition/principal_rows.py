"""Centered data compressed to as many rows as it has dimensions, batch after batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK_ROWS = 4096  # converted to float64 at a time


@dataclass(frozen=True, eq=False)
class PrincipalRows:
    """What all solvers of sparse PCA need of the data, in memory independent of its length.

    ``rows = diag(s) Vt`` of the singular value decomposition of the centered data. Since
    ``rows.T @ rows`` is the scatter matrix, ``||X - U V||`` over all bounded scores U has the same
    minimum with `rows` in place of the centered X, so a solver's step does not cost more
    for more samples.

    Parameters
    ----------
    n_samples : int
        Rows seen.
    mean : Tensor of shape (P,), float64
    rows : Tensor of shape (R, P), float64
        Orthogonal, longest first; R is the numerical rank, at most min(n_samples, P).

    Examples
    --------
    >>> X = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 1.0], [2.0, -1.0]])
    >>> data = PrincipalRows.of(X)
    >>> data.mean.tolist(), (data.rows.T @ data.rows).round(decimals=9).tolist()
    ([2.0, 0.0], [[2.0, 0.0], [0.0, 2.0]])
    """

    n_samples: int
    mean: Tensor
    rows: Tensor

    @classmethod
    def empty(cls, n_features: int, *, device: torch.device | str = "cpu") -> "PrincipalRows":
        """Return the state before the first row."""
        nothing = torch.zeros(0, n_features, dtype=torch.float64, device=device)
        return cls(0, nothing.new_zeros(n_features), nothing)

    @classmethod
    def of(
        cls, X: Tensor, *, device: torch.device | str = "cpu", chunk_rows: int = CHUNK_ROWS
    ) -> "PrincipalRows":
        """Compress the rows of `X`, of shape (N, P) and any floating dtype."""
        return cls.empty(X.shape[1], device=device).updated(X, chunk_rows=chunk_rows)

    def updated(self, X: Tensor, *, chunk_rows: int = CHUNK_ROWS) -> "PrincipalRows":
        """Return what compressing all rows seen so far and those of `X` gives.

        Means and scatter are merged pairwise (Chan, Golub & LeVeque 1979), so a large offset of the
        data costs no precision.
        """
        if self.rows.shape[0] + X.shape[0] + 1 <= X.shape[1]:
            total = self.n_samples + X.shape[0]
            batch = X.to(self.mean)
            shift = batch.mean(0) - self.mean
            jump = shift * (self.n_samples * X.shape[0] / total) ** 0.5
            stacked = torch.cat([self.rows, batch - batch.mean(0), jump[None]])
            return PrincipalRows(
                total, self.mean + shift * (X.shape[0] / total), _from_rows(stacked)
            )
        n_samples, mean, scatter = self.n_samples, self.mean, self.rows.T @ self.rows
        for start in range(0, X.shape[0], chunk_rows):
            batch = X[start : start + chunk_rows].to(self.mean)
            n_batch, batch_mean = batch.shape[0], batch.mean(0)
            shift = batch_mean - mean
            scatter += _gram(batch - batch_mean)
            scatter.addr_(shift, shift, alpha=n_samples * n_batch / (n_samples + n_batch))
            n_samples += n_batch
            mean = mean + shift * (n_batch / n_samples)
        return PrincipalRows(n_samples, mean, _from_scatter(scatter))

    @property
    def total_variance(self) -> float:
        """Sum of the unbiased variances of all features."""
        return float(self.rows.square().sum()) / max(self.n_samples - 1, 1)


def _gram(X: Tensor) -> Tensor:
    """Return ``X.T @ X``; NumPy sees that both factors are the same and does half the work."""
    if X.device.type == "cpu":
        return torch.from_numpy(X.numpy().T @ X.numpy())
    return X.T @ X


def _from_scatter(scatter: Tensor) -> Tensor:
    """Return ``diag(s) Vt`` from ``X.T @ X = V diag(s^2) Vt``."""
    squares, vectors = torch.linalg.eigh(scatter)
    kept = squares > squares.max().clamp(min=0) * _negligible(scatter)
    return (vectors[:, kept] * squares[kept].sqrt()).flip(1).T.contiguous()


def _from_rows(X: Tensor) -> Tensor:
    """Return ``diag(s) Vt`` from ``X @ X.T = U diag(s^2) Ut``, for fewer rows than features."""
    squares, vectors = torch.linalg.eigh(X @ X.T)
    kept = squares > squares.max().clamp(min=0) * _negligible(X)
    return vectors[:, kept].flip(1).T @ X


def _negligible(X: Tensor) -> float:
    """Return the share of the largest eigenvalue below which an eigenvalue is rounding."""
    return max(X.shape) * torch.finfo(X.dtype).eps
