"""How strongly sparsity is asked for over a training: ramps, and weights that steer to a target."""

import math
from typing import Literal

from sparsecode._checks import check_choice, check_float

Ramp = Literal["quadratic", "linear", "constant"]
RAMPS = ("quadratic", "linear", "constant")
GAIN = 0.1  # of a step of the weight towards its target, in its logarithm
MEMORY = 0.8  # of the running mean that the steering looks at
BOUND = 1e4  # the weight stays within this factor of where it began
APPROACH = 0.5  # share of the training over which the wanted entries fall to the target


def ramp(progress: float, *, share: float = 1 / 3, kind: Ramp = "quadratic") -> float:
    """Return the factor of a regularizer's weight at a share of the training.

    ``min(1, progress / share)``, squared for the quadratic ramp of Paria et al. and SPLADE.

    Parameters
    ----------
    progress : float in [0, 1]
    share : float in [0, 1], default=1/3
        Share of the training over which the factor rises to 1.
    kind : {"quadratic", "linear", "constant"}, default="quadratic"

    Returns
    -------
    float in [0, 1]

    References
    ----------
    Paria et al. (2020), "dynamic" weights of the released code. arXiv:2004.05665.

    Examples
    --------
    >>> [ramp(p, share=0.5) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.25, 1.0, 1.0]
    """
    check_choice("kind", kind, RAMPS)
    share = check_float("share", share, low=0.0, high=1.0)
    if kind == "constant" or progress >= share:
        return 1.0
    return (progress / share) ** (2 if kind == "quadratic" else 1)


class Steered:
    """A weight that rises while more entries are active than wanted, and falls while fewer are.

    What is wanted goes from the entries of the first batch to the target, by a constant factor a
    step, over the first part of the training. After each batch the logarithm of the weight moves by
    `gain` times that of the ratio of the running mean of active entries to what is wanted (integral
    control), and by twice that of the change of the mean, which keeps it from overshooting.

    Parameters
    ----------
    start : float > 0
        The weight before the first batch.
    target : float > 0
        Active entries of a row, on average.
    gain : float, default=0.1

    Attributes
    ----------
    value : float
        The present weight.
    mean_active : float or None
        The running mean; None before the first batch.

    Examples
    --------
    >>> weight = Steered(1.0, target=8)
    >>> for _ in range(3):
    ...     weight.update(16.0, progress=1.0)
    >>> weight.value > 1.0
    True
    """

    def __init__(self, start: float, target: float, gain: float = GAIN) -> None:
        self._start = check_float("start", start, low=0.0, open_low=True)
        self._target = check_float("target", target, low=0.0, open_low=True)
        self._gain = check_float("gain", gain, low=0.0)
        self._first = self._target
        self.value = self._start
        self.mean_active: float | None = None

    def wanted(self, progress: float) -> float:
        """Return the entries that are wanted at a share of the training."""
        done = min(1.0, progress / APPROACH)
        return self._first ** (1 - done) * self._target**done

    def update(self, n_active: float, progress: float) -> None:
        """Move the weight after a batch with that many active entries a row."""
        n_active = max(n_active, 0.1)
        before = self.mean_active
        if before is None:
            before = self._first = n_active
        mean = before**MEMORY * n_active ** (1 - MEMORY)
        error, change = math.log(mean / self.wanted(progress)), math.log(mean / before)
        self.mean_active = mean
        moved = self.value * math.exp(self._gain * error + 2 * change)
        self.value = min(max(moved, self._start / BOUND), self._start * BOUND)
