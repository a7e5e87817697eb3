"""Statistics of activation rows, gathered in one pass, in float64."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import check_float

_BINS = 2560
_BINS_PER_OCTAVE = 32
_PIECE = 512  # rows at a time: their float64 copy stays in the processor's cache


class RowStatistics:
    """Mean and norms of the rows that `update` was given.

    Everything is an exact running sum in float64, so rows may come in pieces. Quantiles of the norm
    come from a histogram with 32 bins per factor of two: they are right to about 1 %.

    Parameters
    ----------
    n_features : int

    Attributes
    ----------
    rows : int
        Rows seen so far.
    norm_max : float
        Largest norm of a row.
    """

    def __init__(self, n_features: int) -> None:
        self.rows = 0
        self.norm_max = 0.0
        self._sum = torch.zeros(n_features, dtype=torch.float64)
        self._norm_sum = 0.0
        self._squared_norm_sum = 0.0
        self._histogram = np.zeros(_BINS, dtype=np.int64)

    def update(self, rows: Tensor) -> None:
        """Add the rows of a floating CPU tensor (N, n_features)."""
        for piece in rows.split(_PIECE):
            exact = piece.double()
            squares = exact.square().sum(1)
            norms = squares.sqrt()
            self._sum += exact.sum(0)
            self._norm_sum += float(norms.sum())
            self._squared_norm_sum += float(squares.sum())
            self.norm_max = max(self.norm_max, float(norms.max()))
            bins = np.clip(_bin_of(norms.numpy()), 0, _BINS - 1)
            self._histogram += np.bincount(bins, minlength=_BINS)
        self.rows += len(rows)

    @property
    def mean(self) -> Tensor:
        """Mean row, float64 of shape (n_features,)."""
        return self._sum / max(self.rows, 1)

    @property
    def mean_norm(self) -> float:
        """Mean Euclidean norm of a row."""
        return self._norm_sum / max(self.rows, 1)

    @property
    def mean_squared_norm(self) -> float:
        """Mean squared Euclidean norm of a row."""
        return self._squared_norm_sum / max(self.rows, 1)

    @property
    def variance(self) -> float:
        """Mean squared distance of a row from the mean row, the denominator of the FVU."""
        return max(0.0, self.mean_squared_norm - float(self.mean.square().sum()))

    def norm_quantile(self, q: float) -> float:
        """Return the norm that a share `q` of the rows does not exceed, right to about 1 %."""
        q = check_float("q", q, low=0, high=1)
        reached = np.searchsorted(np.cumsum(self._histogram), max(q * self.rows, 1))
        middle = 2.0 ** ((min(int(reached), _BINS - 1) - _BINS // 2 + 0.5) / _BINS_PER_OCTAVE)
        return min(middle, self.norm_max)

    def to_json(self) -> dict[str, Any]:
        """Return the state for a JSON file; floats survive exactly."""
        filled = np.flatnonzero(self._histogram)
        return {
            "rows": self.rows,
            "sum": self._sum.tolist(),
            "norm_sum": self._norm_sum,
            "squared_norm_sum": self._squared_norm_sum,
            "norm_max": self.norm_max,
            "norm_histogram": {str(i): int(self._histogram[i]) for i in filled},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "RowStatistics":
        """Rebuild the state that `to_json` returned."""
        self = cls(len(value["sum"]))
        self.rows = value["rows"]
        self.norm_max = value["norm_max"]
        self._sum = torch.tensor(value["sum"], dtype=torch.float64)
        self._norm_sum = value["norm_sum"]
        self._squared_norm_sum = value["squared_norm_sum"]
        for bin_, count in value["norm_histogram"].items():
            self._histogram[int(bin_)] = count
        return self


def _bin_of(norms: np.ndarray) -> np.ndarray:
    logs = np.log2(np.maximum(norms, 2.0**-40))  # a row of zeros falls in the first bin
    return np.floor(logs * _BINS_PER_OCTAVE).astype(np.int64) + _BINS // 2
