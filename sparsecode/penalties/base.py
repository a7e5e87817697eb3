"""What every penalty can do, and the abilities that only some have."""

from abc import ABC, abstractmethod

from torch import Tensor


class AbstractPenalty(ABC):
    """A non-negative function of codes, infinite where a constraint is broken, with its prox.

    The last axis of a code holds its coordinates; leading axes are rows, over which values add up
    and which the proximal operator treats one by one.
    """

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
    """A sum of the same function of every entry, so that a solver may visit them one at a time."""


class Convex(ABC):  # noqa: B024 - a promise about `value`, without a method of its own
    """A convex penalty: its proximal operator is firmly non-expansive, its minima are global."""
