"""What every datafit can do."""

from abc import ABC, abstractmethod

from torch import Tensor


class AbstractDatafit(ABC):
    """A smooth, convex function of the difference between rows and their reconstructions."""

    @abstractmethod
    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the misfit of each row: shape (N,) for rows `x` and `y` of shape (N, D)."""

    @abstractmethod
    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the gradient of `value` in the reconstruction `y`, of shape (N, D)."""

    @abstractmethod
    def curvature(self) -> float:
        """Return an upper bound of the second derivative in any entry of `y`."""

    @abstractmethod
    def rows(self, rows: slice | Tensor) -> "AbstractDatafit":
        """Return the datafit of some of the rows, picked by a slice or by ids."""
