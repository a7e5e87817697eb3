"""How much of the products ``u (x) u`` of rows a reconstruction leaves unexplained."""

import math

import torch
from torch import Tensor


class ProductSums:
    """The sums behind FVU and cosine in the space of (D, D) matrices, none of which is made.

    A row counts as the matrix ``X = u (x) u``; the variance is taken around the mean matrix.

    Parameters
    ----------
    n_features : int
        Width D of the rows.
    device : device, default="cpu"
        Where the sums are held; batches must lie there too.

    Examples
    --------
    >>> sums = ProductSums(2)
    >>> sums.add(torch.eye(2), inner=torch.tensor([0.5, 1.0]), energy=torch.tensor([0.25, 1.0]))
    >>> sums.fvu, sums.mse
    (0.25, 0.125)
    """

    def __init__(self, n_features: int, *, device: str | torch.device = "cpu") -> None:
        self.n_rows = 0
        self._total_DD = torch.zeros(n_features, n_features, dtype=torch.float64, device=device)
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self._own, self._error, self._cosine = zero.clone(), zero.clone(), zero.clone()

    @torch.no_grad()
    def add(self, u: Tensor, inner: Tensor, energy: Tensor) -> None:
        """Add rows and what is known of their reconstructions Xhat.

        Parameters
        ----------
        u : Tensor of shape (..., D)
        inner : Tensor of shape (...,)
            ``<u (x) u, Xhat>``.
        energy : Tensor of shape (...,)
            ``||Xhat||^2``.
        """
        u_ND = u.reshape(-1, u.shape[-1]).double()
        inner, energy = inner.reshape(-1).double(), energy.reshape(-1).double().clamp(min=0)
        own = u_ND.square().sum(1).square()
        self._total_DD += u_ND.t() @ u_ND
        self._own += own.sum()
        self._error += (own - 2 * inner + energy).clamp(min=0).sum()
        norms = (own * energy).sqrt()
        self._cosine += torch.where(norms > 0, inner / norms, 0.0).sum()
        self.n_rows += len(u_ND)

    @property
    def variance(self) -> float:
        """Mean over rows of the squared distance to the mean matrix."""
        if not self.n_rows:
            return math.nan
        mean_energy = float((self._total_DD / self.n_rows).square().sum())
        return max(0.0, float(self._own) / self.n_rows - mean_energy)

    @property
    def mse(self) -> float:
        """Mean over rows of the squared error, summed over all D^2 entries."""
        return float(self._error) / self.n_rows if self.n_rows else math.nan

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained; infinite for rows whose products are all equal."""
        variance = self.variance
        if math.isnan(variance):
            return math.nan
        return self.mse / variance if variance > 0 else math.inf

    @property
    def cosine(self) -> float:
        """Mean over rows of the cosine between X and its reconstruction, neither centered."""
        return float(self._cosine) / self.n_rows if self.n_rows else math.nan


def product_variance(u: Tensor) -> float:
    """Return the mean squared distance of the matrices ``u (x) u`` of some rows to their mean.

    Parameters
    ----------
    u : Tensor of shape (N, D)

    Returns
    -------
    float

    Examples
    --------
    >>> product_variance(torch.eye(2))
    0.5
    """
    sums, none = ProductSums(u.shape[-1], device=u.device), u.new_zeros(len(u))
    sums.add(u, none, none)
    return sums.variance
