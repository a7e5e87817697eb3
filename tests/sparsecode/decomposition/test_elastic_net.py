import pytest
import torch
from torch import Tensor

from sparsecode.decomposition.elastic_net import alternating_elastic_net, keep_largest
from sparsecode.decomposition.principal_rows import PrincipalRows
from sparsecode.penalties import L1


@pytest.fixture
def rows() -> Tensor:
    mixing = torch.randn(5, 20, dtype=torch.float64)
    X = torch.randn(100, 5, dtype=torch.float64) @ mixing
    return PrincipalRows.of(X + 0.3 * torch.randn(100, 20, dtype=torch.float64)).rows


def test_without_a_penalty_it_is_the_truncated_singular_value_decomposition(rows: Tensor) -> None:
    result = alternating_elastic_net(rows, torch.randn(3, 20).double(), alpha=0.0, tol=1e-14)
    residual = 0.5 * float(rows[3:].square().sum())
    assert result.objectives[-1] == pytest.approx(residual, rel=1e-8)


@pytest.mark.parametrize("l2", [0.0, 2.0])
def test_loadings_are_stationary(rows: Tensor, l2: float) -> None:
    result = alternating_elastic_net(rows, rows[:4], alpha=2.0, l2=l2, max_iter=5000, tol=1e-14)
    scores, loadings = result.scores, result.loadings
    gradient = scores @ (scores.T @ loadings - rows) + l2 * loadings
    assert float(L1(2.0).subdiff_distance(loadings, gradient).max()) < 1e-3
    assert (loadings == 0).any()


def test_scores_are_stationary_in_the_ball(rows: Tensor) -> None:
    result = alternating_elastic_net(rows, rows[:4], alpha=2.0, max_iter=5000, tol=1e-14)
    gradient = (result.scores.T @ result.loadings - rows) @ result.loadings.T
    inwards = -gradient.T
    cosine = torch.nn.functional.cosine_similarity(inwards, result.scores, dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), atol=1e-5, rtol=0)


def test_one_component_of_one_feature_has_a_closed_form() -> None:
    rows = torch.tensor([[3.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    result = alternating_elastic_net(rows, rows[:1], alpha=2.5, l2=0.5)
    # The score is along the first column; soft-thresholded and shrunk by 1 / (1 + l2).
    torch.testing.assert_close(
        result.loadings, torch.tensor([[(3.0 - 2.5) / 1.5, 0.0]], dtype=torch.float64)
    )


@pytest.mark.parametrize("n_nonzero", [1, 3, 7, 20])
def test_number_of_loadings_is_exact(rows: Tensor, n_nonzero: int) -> None:
    result = alternating_elastic_net(rows, rows[:4], alpha=0.0, n_nonzero=n_nonzero)
    assert (result.loadings != 0).sum(1).tolist() == [n_nonzero] * 4


def test_all_loadings_allowed_is_no_constraint(rows: Tensor) -> None:
    free = alternating_elastic_net(rows, rows[:3], alpha=0.0, tol=1e-12)
    counted = alternating_elastic_net(rows, rows[:3], alpha=5.0, n_nonzero=20, tol=1e-12)
    assert counted.objectives[-1] == pytest.approx(free.objectives[-1])


def test_more_weight_gives_fewer_loadings(rows: Tensor) -> None:
    counts = [
        int((alternating_elastic_net(rows, rows[:4], alpha=a).loadings != 0).sum())
        for a in (0.01, 0.5, 2.0, 6.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] > 0


def test_keep_largest_counts_by_size() -> None:
    x = torch.tensor([[1.0, -3.0, 2.0], [0.0, 0.0, -1.0]])
    assert keep_largest(x, 2).tolist() == [[0, -3, 2], [0, 0, -1]]
    assert torch.equal(keep_largest(x, 5), x)
