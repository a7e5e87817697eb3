"""What every penalty can do, and the abilities that only some have."""

from abc import ABC, abstractmethod

from torch import Tensor


class AbstractPenalty(ABC):
    """A non-negative function of a code that is 0 at 0, with its proximal operator."""

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """Return the penalty of all of `z`, a scalar."""

    @abstractmethod
    def prox(self, z: Tensor, step: float) -> Tensor:
        """Return ``argmin_u 1/2 ||u - z||^2 + step * value(u)``, of the shape of `z`."""


class Subdifferentiable(ABC):
    """A penalty that can say how far a point is from being stationary."""

    @abstractmethod
    def subdiff_distance(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Return the distance of each ``-gradient`` entry to the subdifferential at `z`.

        `gradient` is the gradient of the datafit at `z`; all zeros mean that `z` is stationary.
        """


class CoordinateSeparable(ABC):  # noqa: B024 - a promise about `value`, without a method of its own
    """A penalty that is a sum over entries, so that a solver may visit them one at a time."""
