"""Checks for our tests and for users' own classes."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsecode.datafits import Quadratic
from sparsecode.penalties import (
    L1,
    AbstractPenalty,
    Convex,
    CoordinateSeparable,
    Subdifferentiable,
)
from sparsecode.solvers import FISTA, AbstractSolver, Problem, SolverResult

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


def check_solver(solver: AbstractSolver, penalty: AbstractPenalty | None = None) -> None:
    """Check the contract of a solver; raise AssertionError at what does not hold.

    On well- and ill-conditioned dictionaries: shapes, dtype and device; `objective` is that of the
    codes and no higher than that of zeros; inputs are not changed; rows do not depend on each
    other, nor on their order; rows of zeros have no codes; atoms of zeros are not used; all rows
    reach the tolerance.
    With a convex penalty the objective is that of `FISTA`, and a start at the solution ends at
    once. With any penalty, a start at the result does not raise the objective.

    Parameters
    ----------
    solver : AbstractSolver
        The solver to check, with settings that suffice for rows of norm about 1.
    penalty : AbstractPenalty or None, default=None
        What to solve with; None means ``L1(0.1)``, or nothing for a solver that takes no penalty.

    Raises
    ------
    AssertionError
        If the solver breaks its contract; the message says where.

    Examples
    --------
    >>> from sparsecode.solvers import OMP
    >>> check_solver(OMP(3))
    """
    if penalty is None and solver.needs_penalty is not None:
        penalty = L1(0.1)
    for name, x, dictionary in _solver_problems():
        result = solver.solve(x, dictionary, penalty=penalty, warn=False)
        _check_result(name, result, x, dictionary, penalty)
        _check_rows(name, solver, result, x, dictionary, penalty)
        if solver.takes_start:
            _check_start(name, solver, result, x, dictionary, penalty)
        if isinstance(penalty, Convex):
            best = FISTA(max_iter=20_000, tol=1e-8).solve(x, dictionary, penalty=penalty)
            above = (result.objective - best.objective) / best.objective.clamp(min=1e-12)
            assert above.max() < 1e-3, f"{name}: objective {above.max():g} above that of FISTA"


def _solver_problems() -> list[tuple[str, Tensor, Tensor]]:
    """Return names, rows and dictionaries."""
    random = torch.Generator().manual_seed(0)
    normal = torch.randn(24, 16, generator=random, dtype=torch.float64)
    u, _, v = torch.linalg.svd(normal, full_matrices=False)
    levels = torch.logspace(0, -2, 16, dtype=torch.float64)
    found = []
    for name, atoms in (("well-conditioned", normal), ("ill-conditioned", u * levels @ v)):
        dictionary = torch.nn.functional.normalize(atoms, dim=1)
        dictionary[5] = 0
        z = torch.randn(11, 24, generator=random, dtype=torch.float64)
        z = z.where(torch.rand(11, 24, generator=random) < 0.15, 0.0)
        noise = torch.randn(11, 16, generator=random, dtype=torch.float64)
        x = torch.nn.functional.normalize(z @ dictionary + 0.05 * noise, dim=1)
        x[3] = 0
        found.append((name, x, dictionary))
    return found


def _check_result(
    name: str,
    result: SolverResult,
    x: Tensor,
    dictionary: Tensor,
    penalty: AbstractPenalty | None,
) -> None:
    """Check that a result is one of these rows."""
    z = result.codes.to_dense()
    assert z.shape == (len(x), len(dictionary)), f"{name}: codes of shape {tuple(z.shape)}"
    assert (z.dtype, z.device) == (x.dtype, x.device), f"{name}: codes in {z.dtype}, {z.device}"
    for part in (result.objective, result.stop_value, result.converged):
        assert part.shape == (len(x),), f"{name}: one value for each row; got {tuple(part.shape)}"
    assert result.converged.all(), f"{name}: rows {(~result.converged).nonzero().flatten()} missed"
    assert (z[3] == 0).all(), f"{name}: a row of zeros must have no codes"
    assert (z[:, 5] == 0).all(), f"{name}: an atom of zeros must not be used"
    problem = Problem(x, dictionary, penalty, Quadratic())
    wanted = problem.objective(z)
    close = torch.allclose(result.objective, wanted, rtol=1e-6, atol=1e-9)
    assert close, f"{name}: `objective` must be that of the codes"
    higher = result.objective - problem.objective(torch.zeros_like(z))
    assert higher.max() <= 1e-9, f"{name}: an objective is {higher.max():g} above that of zeros"


def _check_rows(
    name: str,
    solver: AbstractSolver,
    result: SolverResult,
    x: Tensor,
    dictionary: Tensor,
    penalty: AbstractPenalty | None,
) -> None:
    """Check that rows are solved one by one, as they came, in their own dtype."""

    def solved(rows: Tensor, atoms: Tensor) -> SolverResult:
        return solver.solve(rows, atoms, penalty=penalty, warn=False)

    before, whole = (x.clone(), dictionary.clone()), result.codes.to_dense()
    order = torch.arange(len(x) - 1, -1, -1)
    mirrored = solved(x[order], dictionary).codes.to_dense()[order]
    alone = torch.cat([solved(row[None], dictionary).codes.to_dense() for row in x])
    for what, codes in (("the order of rows", mirrored), ("other rows", alone)):
        apart = float((codes - whole).abs().max())
        assert apart < 1e-8, f"{name}: codes must not depend on {what}; they differ by {apart:g}"
    assert torch.equal(x, before[0]), f"{name}: rows must not be changed"
    assert torch.equal(dictionary, before[1]), f"{name}: the dictionary must not be changed"
    assert solved(x[:0], dictionary).codes.shape == (0, len(dictionary)), f"{name}: no rows"
    single = solved(x.float(), dictionary.float())
    assert single.codes.dtype == torch.float32, f"{name}: float32 must stay; got {single.codes}"
    assert single.objective.isfinite().all(), f"{name}: float32 must give finite codes"


def _check_start(
    name: str,
    solver: AbstractSolver,
    result: SolverResult,
    x: Tensor,
    dictionary: Tensor,
    penalty: AbstractPenalty | None,
) -> None:
    """Check what a start at the result gives."""
    again = solver.solve(x, dictionary, penalty=penalty, start=result.codes, warn=False)
    higher = float((again.objective - result.objective).max())
    assert higher <= 1e-9, f"{name}: a start at the result raised the objective by {higher:g}"
    if isinstance(penalty, Convex):
        assert again.n_iter <= 1, f"{name}: a start at the solution took {again.n_iter} iterations"
