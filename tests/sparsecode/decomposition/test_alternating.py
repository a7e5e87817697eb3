from functools import partial

import pytest
import torch
from torch import Tensor

from sparsecode.decomposition.alternating import alternate, main_direction
from sparsecode.decomposition.elastic_net import alternating_elastic_net
from sparsecode.decomposition.principal_rows import PrincipalRows


def soft_code_step(loadings: Tensor, gram: Tensor, correlation: Tensor, *, alpha: float) -> Tensor:
    """One proximal gradient step: any step that lowers the objective will do."""
    step = 1 / torch.linalg.eigvalsh(gram)[-1].clamp(min=1e-12)
    moved = loadings - step * (gram @ loadings - correlation)
    return moved.sign() * (moved.abs() - alpha * step).clamp(min=0)


def l1(loadings: Tensor, *, alpha: float) -> Tensor:
    return alpha * loadings.abs().sum()


def run(rows: Tensor, start: Tensor, alpha: float, **limits: float):
    return alternate(
        rows, start, partial(soft_code_step, alpha=alpha), partial(l1, alpha=alpha), **limits
    )


@pytest.fixture
def rows() -> Tensor:
    return PrincipalRows.of(torch.randn(60, 15, dtype=torch.float64) * 2).rows


def test_the_objective_is_that_of_the_result_and_never_increases(rows: Tensor) -> None:
    result = run(rows, rows[:4], 1.5, max_iter=60, tol=0.0)
    residual = rows - result.scores.T @ result.loadings
    value = 0.5 * residual.square().sum() + 1.5 * result.loadings.abs().sum()
    assert result.objectives[-1] == pytest.approx(float(value), rel=1e-12)
    assert all(a >= b for a, b in zip(result.objectives, result.objectives[1:], strict=False))
    assert result.objectives[0] > 1.001 * result.objectives[-1]


def test_scores_stay_in_the_unit_ball(rows: Tensor) -> None:
    result = run(rows, rows[:4], 1.5, max_iter=30, tol=0.0)
    assert (result.scores.norm(dim=1) <= 1 + 1e-12).all()


def test_a_start_at_the_solution_stops_at_once(rows: Tensor) -> None:
    solved = alternating_elastic_net(rows, rows[:3], alpha=1.0, max_iter=5000, tol=1e-13)
    again = alternating_elastic_net(rows, solved.loadings, alpha=1.0, max_iter=5000, tol=1e-6)
    assert len(again.objectives) <= 5
    assert again.objectives[-1] <= solved.objectives[-1] * (1 + 1e-6)


def test_a_dead_component_comes_back_with_the_main_direction_of_the_residual() -> None:
    rows = torch.diag(torch.tensor([9.0, 5.0, 3.0], dtype=torch.float64))
    start = torch.zeros(2, 3, dtype=torch.float64)
    start[0, 0] = 9.0
    result = run(rows, start, 0.5, max_iter=20, tol=0.0)
    torch.testing.assert_close(
        result.loadings.abs(), torch.tensor([[8.5, 0, 0], [0, 4.5, 0]], dtype=torch.float64)
    )


def test_a_single_long_column_revives_where_the_main_direction_does_not() -> None:
    # Ten equal features share the main direction. Soft-thresholding kills it, but not column 10.
    rows = torch.zeros(2, 11, dtype=torch.float64)
    rows[0, :10], rows[1, 10] = 1.0, 2.0
    result = run(rows, torch.zeros(1, 11, dtype=torch.float64), 1.5, max_iter=5, tol=0.0)
    assert result.loadings.nonzero().tolist() == [[0, 10]]


def test_components_stay_dead_only_where_zero_is_best(rows: Tensor) -> None:
    longest = float(rows.norm(dim=0).max())
    assert (
        float(run(rows, rows[:2], 1.001 * longest, max_iter=5, tol=0.0).loadings.abs().max()) == 0
    )
    alive = run(rows, rows[:2], 0.99 * longest, max_iter=5, tol=0.0)
    assert (alive.loadings.abs().sum(1) > 0).any()


def test_main_direction_is_the_leading_singular_vector() -> None:
    rows = torch.randn(20, 8, dtype=torch.float64)
    rows[:, 3] *= 10
    leading = torch.linalg.svd(rows)[2][0]
    torch.testing.assert_close(main_direction(rows).abs(), leading.abs())
