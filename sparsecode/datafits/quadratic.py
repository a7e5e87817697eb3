"""Half the squared error: of all entries, of observed ones, or weighted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import as_tensor, check_finite, check_floating
from sparsecode.datafits.base import AbstractDatafit


@dataclass(frozen=True)
class Quadratic(AbstractDatafit):
    """Half the squared error, ``1/2 ||x - y||^2``.

    Examples
    --------
    >>> Quadratic().value(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2))
    tensor([2.5000])
    """

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """Return half the squared error of each row."""
        return (y - x).square().sum(-1) / 2

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y - x``."""
        return y - x

    def curvature(self) -> float:
        """Return 1."""
        return 1.0

    def rows(self, rows: slice | Tensor) -> "Quadratic":
        """Return itself: all rows are treated alike."""
        return self


@dataclass(frozen=True, eq=False)
class MaskedQuadratic(AbstractDatafit):
    """Half the squared error over observed entries; hidden ones may hold anything, also NaN.

    Parameters
    ----------
    mask : bool Tensor or ndarray of shape (N, D) or (D,)
        Whether an entry is observed.

    Examples
    --------
    >>> fit = MaskedQuadratic(torch.tensor([True, False]))
    >>> fit.value(torch.tensor([[1.0, torch.nan]]), torch.zeros(1, 2))
    tensor([0.5000])
    """

    mask: Tensor

    def __post_init__(self) -> None:
        mask = as_tensor(self.mask)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"`mask` must be a bool tensor or array; got {self.mask!r}.")
        object.__setattr__(self, "mask", mask)

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """Return half the squared error of each row over observed entries."""
        return self.gradient(x, y).square().sum(-1) / 2

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y - x`` where observed, else 0."""
        return (y - x).where(self.mask, 0.0)

    def curvature(self) -> float:
        """Return 1."""
        return 1.0

    def rows(self, rows: slice | Tensor) -> "MaskedQuadratic":
        """Return the datafit with the masks of these rows."""
        return self if self.mask.ndim == 1 else MaskedQuadratic(self.mask[rows])


@dataclass(frozen=True, eq=False)
class WeightedQuadratic(AbstractDatafit):
    """Half the weighted squared error, ``1/2 sum_d weights_d (x_d - y_d)^2``.

    Parameters
    ----------
    weights : Tensor or ndarray of shape (N, D) or (D,)
        At least 0.

    Examples
    --------
    >>> WeightedQuadratic(torch.tensor([2.0, 0.0])).value(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([1.])
    """

    weights: Tensor

    def __post_init__(self) -> None:
        weights = check_finite("weights", check_floating("weights", self.weights))
        if bool((weights < 0).any()):
            raise ValueError(f"`weights` must be at least 0; got {float(weights.min()):g}.")
        object.__setattr__(self, "weights", weights)

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """Return half the weighted squared error of each row."""
        return (self.weights * (y - x).square()).sum(-1) / 2

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``weights * (y - x)``."""
        return self.weights * (y - x)

    def curvature(self) -> float:
        """Return the largest weight."""
        return float(self.weights.max())

    def rows(self, rows: slice | Tensor) -> "WeightedQuadratic":
        """Return the datafit with the weights of these rows."""
        return self if self.weights.ndim == 1 else WeightedQuadratic(self.weights[rows])
