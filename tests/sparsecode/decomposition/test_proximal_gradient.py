from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sparsecode.decomposition.elastic_net import alternating_elastic_net
from sparsecode.decomposition.principal_rows import PrincipalRows
from sparsecode.decomposition.proximal_gradient import alternating_proximal_gradient
from sparsecode.penalties import L0, L1, AbstractPenalty, ElasticNet


@dataclass(frozen=True)
class Own(AbstractPenalty):
    """A user's own non-convex penalty: hard thresholding."""

    alpha: float

    def value(self, z: Tensor) -> Tensor:
        return self.alpha * (z != 0).sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        return z * (z.square() > 2 * self.alpha * step)


@pytest.fixture
def rows() -> Tensor:
    mixing = torch.randn(4, 12, dtype=torch.float64)
    X = torch.randn(80, 4, dtype=torch.float64) @ mixing
    return PrincipalRows.of(X + 0.3 * torch.randn(80, 12, dtype=torch.float64)).rows


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_with_l1_it_solves_the_elastic_net_problem(rows: Tensor, alpha: float) -> None:
    limits = {"max_iter": 3000, "tol": 1e-12}
    steps = alternating_proximal_gradient(rows, rows[:3], penalty=L1(alpha), **limits)
    exact = alternating_elastic_net(rows, steps.loadings, alpha=alpha, **limits)
    assert exact.objectives[-1] == pytest.approx(steps.objectives[-1], rel=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 3.0])
@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_with_an_elastic_net_it_solves_that_problem(rows: Tensor, alpha: float, l2: float) -> None:
    limits = {"max_iter": 3000, "tol": 1e-12}
    steps = alternating_proximal_gradient(rows, rows[:3], penalty=ElasticNet(alpha, l2), **limits)
    exact = alternating_elastic_net(rows, steps.loadings, alpha=alpha, l2=l2, **limits)
    assert exact.objectives[-1] == pytest.approx(steps.objectives[-1], rel=1e-5)


@pytest.mark.parametrize("penalty", [L0(4.0), Own(4.0)], ids=["l0", "a user's own"])
def test_any_penalty_will_do(rows: Tensor, penalty: AbstractPenalty) -> None:
    result = alternating_proximal_gradient(rows, rows[:3], penalty=penalty, max_iter=500)
    residual = rows - result.scores.T @ result.loadings
    n_used = int((result.loadings != 0).sum())
    assert 3 <= n_used < 36
    assert result.objectives[-1] == pytest.approx(0.5 * float(residual.square().sum()) + 4 * n_used)
    assert all(a >= b for a, b in zip(result.objectives, result.objectives[1:], strict=False))


@pytest.mark.parametrize("n_nonzero", [1, 4])
def test_number_of_loadings_is_exact(rows: Tensor, n_nonzero: int) -> None:
    result = alternating_proximal_gradient(rows, rows[:3], n_nonzero=n_nonzero)
    assert (result.loadings != 0).sum(1).tolist() == [n_nonzero] * 3
