"""How much of the data a reconstruction leaves unexplained.

The variance is taken around the mean of the whole data set in each dimension, as
``numpy.var(x, axis=0).sum()``. Other formulas in use are not equivalent: around zero, a constant
offset of the data looks explained; around each batch's mean, the value depends on the batch size.
"""

import math

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import as_tensor


class ReconstructionSums:
    """The sums behind `fvu`, batch after batch, in float64.

    Squared deviations from the mean are merged pairwise as in Chan et al., so neither the batch
    size nor a large constant offset of the data changes the result.

    Parameters
    ----------
    n_features : int
        Width D of the rows.
    device : device, default="cpu"
        Where the sums are held; batches must lie there too.

    References
    ----------
    Chan, Golub & LeVeque (1979), "Updating formulae and a pairwise algorithm for computing
    sample variances", eq. (2.1).

    Examples
    --------
    >>> sums = ReconstructionSums(1)
    >>> sums.add(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.5], [2.0]]))
    >>> sums.add(torch.tensor([[4.0]]), torch.tensor([[4.0]]))
    >>> sums.fvu
    0.03125
    """

    def __init__(self, n_features: int, *, device: str | torch.device = "cpu") -> None:
        self.n_rows = 0
        self._mean_D = torch.zeros(n_features, dtype=torch.float64, device=device)
        zero = torch.zeros((), dtype=torch.float64, device=device)
        self._deviation, self._error, self._cosine = zero.clone(), zero.clone(), zero.clone()

    @torch.no_grad()
    def add(self, x: Tensor, reconstruction: Tensor) -> None:
        """Add rows and their reconstructions, both of shape (..., D)."""
        if x.shape != reconstruction.shape or x.shape[-1:] != self._mean_D.shape:
            raise ValueError(
                f"`reconstruction` must have the shape of `x`, (..., {self._mean_D.numel()}); "
                f"got {tuple(reconstruction.shape)} and {tuple(x.shape)}."
            )
        x_ND = x.reshape(-1, x.shape[-1]).double()
        y_ND = reconstruction.reshape(x_ND.shape).double()
        n, total = x_ND.shape[0], self.n_rows + x_ND.shape[0]
        if n == 0:
            return
        mean_D = x_ND.mean(0)
        shift_D = mean_D - self._mean_D
        within = (x_ND - mean_D).square().sum()
        self._deviation += within + shift_D.square().sum() * (self.n_rows * n / total)
        self._mean_D += shift_D * (n / total)
        self._error += (x_ND - y_ND).square().sum()
        norms = torch.linalg.vector_norm(x_ND, dim=1) * torch.linalg.vector_norm(y_ND, dim=1)
        self._cosine += torch.where(norms > 0, torch.linalg.vecdot(x_ND, y_ND) / norms, 0.0).sum()
        self.n_rows = total

    @property
    def variance(self) -> float:
        """Mean over rows of the squared distance to the mean row."""
        return float(self._deviation) / self.n_rows if self.n_rows else math.nan

    @property
    def mse(self) -> float:
        """Mean over rows of the squared error, summed over features."""
        return float(self._error) / self.n_rows if self.n_rows else math.nan

    @property
    def fvu(self) -> float:
        """Fraction of variance unexplained; see `fvu` for data without variance."""
        if self.n_rows == 0:
            return math.nan
        error, deviation = float(self._error), float(self._deviation)
        if deviation > 0:
            return error / deviation
        return math.inf if error > 0 else 0.0 if error == 0 else math.nan

    @property
    def cosine(self) -> float:
        """Mean over rows of the cosine between a row and its reconstruction, neither centered."""
        return float(self._cosine) / self.n_rows if self.n_rows else math.nan


def fvu(x: Tensor | np.ndarray, reconstruction: Tensor | np.ndarray) -> float:
    """Return the fraction of variance unexplained.

    ``sum ||x - xhat||^2 / sum ||x - mean||^2`` over all rows, with the mean of all rows in each
    dimension and all sums in float64. 0 is perfect, 1 is as good as the mean row.

    Parameters
    ----------
    x : Tensor or array of shape (..., D)
    reconstruction : Tensor or array, same shape

    Returns
    -------
    float
        For rows that are all equal: 0 if they are reconstructed exactly, else infinity. NaN for
        no rows.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [2.0], [4.0]])
    >>> fvu(x, x + 1.0)
    0.375
    """
    x, reconstruction = (torch.as_tensor(as_tensor(part)) for part in (x, reconstruction))
    if x.ndim == 0:
        raise ValueError("`x` must have shape (..., n_features); got a single number.")
    sums = ReconstructionSums(x.shape[-1], device=x.device)
    sums.add(x, reconstruction)
    return sums.fvu


def explained_variance(x: Tensor | np.ndarray, reconstruction: Tensor | np.ndarray) -> float:
    """Return ``1 - fvu(x, reconstruction)``.

    A constant error counts against the reconstruction, unlike in scikit-learn's
    ``explained_variance_score``; dimensions are weighted by their variance.

    Parameters
    ----------
    x : Tensor or array of shape (..., D)
    reconstruction : Tensor or array, same shape

    Returns
    -------
    float

    Examples
    --------
    >>> x = torch.tensor([[0.0], [2.0], [4.0]])
    >>> explained_variance(x, x + 1.0)
    0.625
    """
    return 1.0 - fvu(x, reconstruction)
