from itertools import combinations

import pytest
import torch
from torch import Tensor

from sparsecode.decomposition.principal_rows import PrincipalRows
from sparsecode.decomposition.truncated_power import truncated_power


def spiked_rows(
    n: int, p: int, spikes: list[tuple[float, slice]], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Principal rows of n Gaussian samples, identity covariance plus flat sparse spikes."""
    vectors = torch.zeros(len(spikes), p, dtype=torch.float64)
    X = torch.randn(n, p, generator=generator, dtype=torch.float64)
    for vector, (variance, support) in zip(vectors, spikes, strict=True):
        vector[support] = 1.0
        vector.div_(vector.norm())
        draw = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        X += (variance - 1) ** 0.5 * draw * vector
    return PrincipalRows.of(X).rows, vectors


def test_planted_components_are_recovered_at_the_published_sample_sizes() -> None:
    # Shen & Huang (2008), and the synthetic experiment of Yuan & Zhang (2013): 50 samples in 500
    # dimensions, variances 400 and 300 on 10 features each, recovery means a cosine above 0.99.
    spikes = [(400.0, slice(0, 10)), (300.0, slice(10, 20))]
    recovered = 0
    for seed in range(20):
        rows, planted = spiked_rows(50, 500, spikes, torch.Generator().manual_seed(seed))
        found = truncated_power(rows, n_components=2, n_nonzero=10).components
        recovered += int(((found @ planted.T).abs().amax(1) > 0.99).all())
    assert recovered == 20


def test_the_support_of_a_weak_spike_is_found() -> None:
    # One spike of variance 1 + 3 on 5 of 200 features, 200 samples: far below what PCA can resolve.
    for seed in range(10):
        spike = [(4.0, slice(0, 5))]
        rows, _ = spiked_rows(200, 200, spike, torch.Generator().manual_seed(seed))
        found = truncated_power(rows, n_components=1, n_nonzero=5).components[0]
        assert found.nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n_nonzero", [1, 2, 3])
def test_small_problems_are_solved_to_the_optimum(n_nonzero: int) -> None:
    reached = 0
    for seed in range(20):
        X = torch.randn(30, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rows = PrincipalRows.of(X).rows
        best = max(
            float(torch.linalg.matrix_norm(rows[:, list(support)], 2)) ** 2
            for support in combinations(range(8), n_nonzero)
        )
        x = truncated_power(rows, n_components=1, n_nonzero=n_nonzero).components[0]
        value = float((rows @ x).square().sum())
        assert value <= best * (1 + 1e-9)
        reached += value > best * (1 - 1e-6)
    # A local method: noise without structure is the hardest case. 1 entry is always solved.
    assert reached >= (20 if n_nonzero == 1 else 12)


def test_dense_components_are_principal_components() -> None:
    X = torch.randn(50, 6, dtype=torch.float64) * torch.arange(6, 0, -1)
    rows = PrincipalRows.of(X).rows
    found = truncated_power(rows, n_components=3, n_nonzero=6, tol=1e-14).components
    _, _, vt = torch.linalg.svd(rows, full_matrices=False)
    torch.testing.assert_close((found @ vt[:3].T).abs(), torch.eye(3).double(), atol=1e-4, rtol=0)


def test_components_have_unit_norm_and_the_exact_number_of_entries() -> None:
    rows = PrincipalRows.of(torch.randn(40, 11, dtype=torch.float64)).rows
    result = truncated_power(rows, n_components=5, n_nonzero=4)
    assert (result.components != 0).sum(1).tolist() == [4] * 5
    torch.testing.assert_close(result.components.norm(dim=1), torch.ones(5).double())
    assert result.residuals == sorted(result.residuals, reverse=True)


def test_what_is_explained_completely_leaves_zero_components() -> None:
    rows = torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64)
    result = truncated_power(rows, n_components=2, n_nonzero=2)
    torch.testing.assert_close(
        result.components.abs(), torch.tensor([[0.6, 0.8, 0], [0, 0, 0]]).double()
    )
    assert result.residuals[0] == pytest.approx(0, abs=1e-12)
