"""What the architectures share: the point that they start from."""

import pytest
import torch

import sae
from sae.autoencoders.base import geometric_median


@pytest.fixture
def rows():
    return torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) + 3.0


def total_distance(rows, point):
    return float(torch.linalg.vector_norm(rows - point, dim=1).double().sum())


def test_the_geometric_median_has_the_least_sum_of_distances(rows):
    point = geometric_median(rows.double())
    least = total_distance(rows, point)
    assert least < total_distance(rows, rows.double().mean(0))
    for step in 1e-3 * torch.randn(50, 5, generator=torch.Generator().manual_seed(1)):
        assert total_distance(rows, point + step) >= least
    on_a_line = torch.tensor([[0.0], [1.0], [2.0], [7.0], [900.0]])
    assert float(geometric_median(on_a_line)) == pytest.approx(2.0, abs=1e-3)


def test_points_that_coincide_give_no_nan():
    assert torch.equal(geometric_median(torch.ones(4, 3)), torch.ones(3))
    mostly = torch.cat([torch.zeros(5, 2), torch.ones(2, 2)])
    torch.testing.assert_close(geometric_median(mostly), torch.zeros(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "name", ["topk", "hierarchical_topk", "batch_topk", "matryoshka", "jumprelu", "gated", "relu"]
)
def test_one_huge_row_hardly_moves_the_start(rows, name):
    """The first token of a text may be a thousand times as long as the others."""
    outlier = torch.cat([rows, torch.full((1, 5), 5e3)])
    centers = []
    for sample in (rows, outlier):
        model = sae.AUTOENCODERS[name](n_features=5, n_latents=40, seed=0)
        model.initialize(sample)
        centers.append(model.b_dec.detach())
    assert float((centers[1] - centers[0]).norm()) < 0.1
    assert float((outlier.mean(0) - rows.mean(0)).norm()) > 20
