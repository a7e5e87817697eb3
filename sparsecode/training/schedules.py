"""Learning rates: the default for a run, and their course over its steps."""

import math

from sparsecode._checks import check_int


def default_learning_rate(
    *, n_latents: int, n_features: int, n_steps: int, batch_size: int
) -> float:
    """Return the highest learning rate that suits a run.

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
    0.003
    """
    for name, value in (
        ("n_latents", n_latents),
        ("n_features", n_features),
        ("n_steps", n_steps),
        ("batch_size", batch_size),
    ):
        check_int(name, value, low=1)
    return 3e-3


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
