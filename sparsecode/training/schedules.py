"""Learning rates: the default for a run, and their course over its steps."""

import math

from sparsecode._checks import check_int

REFERENCE_RATE, REFERENCE_STEPS, REFERENCE_LATENTS = 6e-3, 300, 4096
HIGHEST_RATE = 3e-2


def default_learning_rate(
    *, n_latents: int, n_features: int, n_steps: int, batch_size: int
) -> float:
    """Return the highest learning rate that suits a run.

    ``6e-3 * (300 / n_steps)^0.4 * (4096 / n_latents)^0.5``, at most 3e-2. The width enters as
    is customary; the length was fitted to sweeps over real transformer activations
    (384 features, 4,096 latents, k = 32, 300 and 1,000 steps of 2,048 rows), where the optimum
    moves down as runs grow longer. Wide dictionaries in long runs thus meet the customary
    ``2e-4 / sqrt(n_latents / 2^14)``, which leaves short runs far from done.

    Parameters
    ----------
    n_latents : int
        Width F of the code.
    n_features : int
        Width D of the data.
    n_steps : int
        Optimizer steps of the run.
    batch_size : int
        Rows of a step.

    Returns
    -------
    float
        For Adam, losses divided by the variance of the data, unit-norm dictionary rows.

    Examples
    --------
    >>> default_learning_rate(n_latents=4096, n_features=384, n_steps=1000, batch_size=2048)
    0.0037...
    """
    for name, value in (  # the width of the data and the batch do not enter the law
        ("n_latents", n_latents),
        ("n_features", n_features),
        ("n_steps", n_steps),
        ("batch_size", batch_size),
    ):
        check_int(name, value, low=1)
    length = (REFERENCE_STEPS / n_steps) ** 0.4
    width = (REFERENCE_LATENTS / n_latents) ** 0.5
    return min(HIGHEST_RATE, REFERENCE_RATE * length * width)


def learning_rate_factor(
    step: int, *, n_steps: int, warmup_share: float, decay_share: float
) -> float:
    """Return the factor of the learning rate at a step: up, level, and linearly down to zero.

    Parameters
    ----------
    step : int
        From 0 to ``n_steps - 1``; no step has a factor of exactly 0.
    n_steps : int
    warmup_share : float
        Share of the steps over which the factor rises.
    decay_share : float
        Share of the steps, the last ones, over which it falls.

    Returns
    -------
    float
        In (0, 1].

    Examples
    --------
    >>> [learning_rate_factor(s, n_steps=8, warmup_share=0.25, decay_share=0.5) for s in range(8)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    rise = (step + 1) / max(1, math.ceil(warmup_share * n_steps))
    fall = (n_steps - step) / max(1, math.ceil(decay_share * n_steps))
    return min(1.0, rise, fall)
