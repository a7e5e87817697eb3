"""Checks for our tests and for users' own classes."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsecode.penalties import AbstractPenalty, Convex, CoordinateSeparable, Subdifferentiable

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


def check_penalty(
    penalty: AbstractPenalty, *, width: int = 3, steps: tuple[float, ...] = (0.05, 0.5, 0.9, 2.0)
) -> None:
    """Check the contract of a penalty; raise AssertionError at what does not hold.

    The proximal operator must cost no more than any of some ten thousand other points: a grid,
    points near its result, and sparser and projected ones. Rows are treated one by one; dtype and
    shape are kept; inputs are not changed. A convex penalty is firmly non-expansive; the result of
    the proximal operator is stationary; a sum over entries is one.

    Parameters
    ----------
    penalty : AbstractPenalty
        The penalty to check.
    width : int, default=3
        Number of coordinates of the codes to check with.
    steps : tuple of float, default=(0.05, 0.5, 0.9, 2.0)
        Steps of the proximal operator.

    Raises
    ------
    AssertionError
        If the penalty breaks its contract; the message says where.

    Examples
    --------
    >>> from sparsecode.penalties import L1
    >>> check_penalty(L1(0.1))
    """
    random = torch.Generator().manual_seed(0)
    z = 2 * torch.randn(12, width, generator=random, dtype=torch.float64)
    z[0] = 0
    z[1] = z[1, 0]  # ties
    for step in steps:
        before = z.clone()
        u = penalty.prox(z, step)
        assert torch.equal(z, before), "prox must not change its input"
        assert u.shape == z.shape, f"prox must keep the shape {tuple(z.shape)}; got {u.shape}"
        single = torch.stack([penalty.prox(row, step) for row in z])
        assert torch.allclose(u, single, atol=1e-12), "prox must treat rows one by one"
        single_precision = penalty.prox(z.float(), step)
        assert single_precision.dtype == torch.float32, "prox must keep the dtype"
        for row, result in zip(z, u, strict=True):
            _check_minimum(penalty, row, result, step, random)
        _check_abilities(penalty, z, u, step)


def _check_minimum(
    penalty: AbstractPenalty, z: Tensor, u: Tensor, step: float, random: torch.Generator
) -> None:
    """Check that no point of a search costs less than `u`."""
    width = z.numel()
    axis = torch.linspace(-4, 4, 17 if width == 3 else 401 if width < 3 else 2, dtype=z.dtype)
    grid = torch.cartesian_prod(*[axis] * min(width, 3)).reshape(-1, min(width, 3))
    grid = torch.nn.functional.pad(grid[:: max(1, len(grid) // 5000)], (0, width - grid.shape[1]))
    noise = torch.randn(2000, width, generator=random, dtype=z.dtype)
    scales = 10.0 ** -torch.arange(2000, dtype=z.dtype).remainder(5)[:, None]
    near, masks = u + noise * scales, (noise > 0).to(z.dtype)
    projected = penalty.prox(near, step)
    points = torch.cat([grid, near, projected, u * masks, z * masks, z[None]])
    costs = (points - z).square().sum(-1) / 2 + step * torch.vmap(penalty.value)(points)
    cost = (u - z).square().sum() / 2 + step * penalty.value(u)
    assert penalty.value(u) >= 0, f"value must be at least 0; got {penalty.value(u)}"
    assert cost.isfinite(), f"prox must be allowed: value({u}) is {penalty.value(u)}"
    best = costs.nan_to_num(nan=float("inf")).min()
    assert cost <= best + 1e-9 * (1 + best.abs()), (
        f"prox({z}, {step}) must be a minimum; {u} costs {cost}, "
        f"{points[costs.argmin()]} costs {best}"
    )


def _check_abilities(penalty: AbstractPenalty, z: Tensor, u: Tensor, step: float) -> None:
    """Check what the penalty says of itself beyond value and prox."""
    if isinstance(penalty, Convex):
        moved = u[:, None] - u
        inner = (moved * (z[:, None] - z)).sum(-1)
        assert (moved.square().sum(-1) <= inner + 1e-9).all(), "prox must be firmly non-expansive"
    if isinstance(penalty, Subdifferentiable):
        distance = penalty.subdiff_distance(u, (u - z) / step)
        assert distance.max() < 1e-7, f"prox must be stationary; distance {distance.max()}"
        elsewhere = penalty.subdiff_distance(u, (u - z) / step + 100)
        assert (elsewhere >= 0).all(), "a distance must be at least 0"
        assert (elsewhere[u != 0] > 0).all(), "a large gradient must not be stationary"
    if isinstance(penalty, CoordinateSeparable):
        parts = torch.stack([penalty.value(entry[None]) for entry in u.flatten()]).sum()
        assert torch.allclose(penalty.value(u), parts), "value must be a sum over entries"
        alone = torch.cat([penalty.prox(entry[None], step) for entry in z.flatten()])
        assert torch.allclose(u.flatten(), alone, atol=1e-12), "prox must act on entries"
