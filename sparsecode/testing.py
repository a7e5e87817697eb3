"""Checks for our tests and for users' own classes."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import torch

TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-6},
    torch.float16: {"rtol": 1e-2, "atol": 1e-3},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-2},
}
"""How closely a fast implementation must follow the float64 reference, by dtype."""


def max_new_bytes(call: Callable[[], Any]) -> int:
    """Return the most memory, in bytes, that a call held at one time beyond what was there before.

    Counts what torch allocates on the CPU and what NumPy allocates; the sum of the two peaks, so an
    upper bound.

    Parameters
    ----------
    call : callable without arguments
        Called once to warm up and once to be measured.

    Returns
    -------
    int

    Examples
    --------
    >>> max_new_bytes(lambda: torch.zeros(1000)) >= 4000
    True
    """
    call()
    tracemalloc.start()
    try:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            tracemalloc.reset_peak()  # the profiler's own start-up does not count
            before, _ = tracemalloc.get_traced_memory()
            result = call()
            _, numpy_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    del result
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    changes = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        peak = max(peak, held)
    return peak + numpy_peak - before
