"""The Huber loss: squared error for small residuals, absolute error for large ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode._checks import check_float
from sparsecode.datafits.base import AbstractDatafit


@dataclass(frozen=True)
class Huber(AbstractDatafit):
    """Sum of ``r^2 / 2`` for ``|r| <= delta`` and ``delta (|r| - delta / 2)`` beyond.

    Parameters
    ----------
    delta : float > 0, default=1.0
        Residual at which the loss becomes linear.

    References
    ----------
    Huber (1964), "Robust estimation of a location parameter".

    Examples
    --------
    >>> Huber(1.0).value(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2))
    tensor([2.5000])
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        check_float("delta", self.delta, low=0.0, open_low=True)

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of each row."""
        size = (y - x).abs()
        inside = size.clamp(max=self.delta)
        return (inside * (size - inside / 2)).sum(-1)

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y - x``, clipped to [-delta, delta]."""
        return torch.clamp(y - x, -self.delta, self.delta)

    def curvature(self) -> float:
        """Return 1."""
        return 1.0

    def rows(self, rows: slice | Tensor) -> "Huber":
        """Return itself: all rows are treated alike."""
        return self
