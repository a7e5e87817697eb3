"""The shipped measure of memory sees what torch and NumPy hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsecode.solvers import FISTA, OMP, AbstractSolver
from sparsecode.testing import TOLERANCES, check_solver, max_new_bytes


def test_the_peak_counts_what_is_held_at_one_time():
    one_after_another = max_new_bytes(lambda: [torch.zeros(100_000).sum() for _ in range(5)])
    all_at_once = max_new_bytes(lambda: [torch.zeros(100_000) for _ in range(5)])
    assert 400_000 <= one_after_another < 800_000
    assert 2_000_000 <= all_at_once < 2_400_000


def test_numpy_counts_too():
    assert max_new_bytes(lambda: np.zeros(1_000_000).sum()) >= 8_000_000


def test_tolerances_loosen_with_precision():
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    rates = [TOLERANCES[kind]["rtol"] for kind in kinds]
    assert rates == sorted(rates)


class Spoiled(AbstractSolver):
    """A solver with one thing wrong."""

    needs_penalty = ()

    def __init__(self, spoil):
        self.spoil = spoil

    def _solve(self, problem):
        found = FISTA(max_iter=20_000, tol=1e-8)._solve(problem)
        return self.spoil(problem, found)


def shared(problem, found):
    """Return codes that depend on how many rows there are."""
    start = problem.first() + 1e-3 * len(problem.x) * (problem.x.norm(dim=1, keepdim=True) > 0)
    rough = replace(problem, start=start.masked_fill(problem.dictionary.norm(dim=1) == 0, 0.0))
    return FISTA(max_iter=60, tol=1.0)._solve(rough)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _, r: replace(r, objective=r.objective / 2), "must be that of the codes"),
        (lambda _, r: replace(r, converged=~r.converged), "rows .* missed"),
        (lambda _, r: replace(r, stop_value=r.stop_value[:1]), "one value for each row"),
        (lambda p, _: FISTA(max_iter=3, tol=1.0)._solve(p), "above that of FISTA|iterations"),
        (shared, "must not depend on other rows|above that of FISTA|that of zeros"),
    ],
)
def test_a_solver_that_breaks_the_contract_is_told(spoil, message):
    with pytest.raises(AssertionError, match=message):
        check_solver(Spoiled(spoil))


def test_a_solver_that_keeps_the_contract_passes():
    check_solver(Spoiled(lambda _, result: replace(result, n_iter=0)))
    check_solver(OMP(3))
