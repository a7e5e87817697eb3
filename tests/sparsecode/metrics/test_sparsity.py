import math

import numpy as np
import pytest
import torch

from sparsecode import SparseCodes, topk
from sparsecode.metrics import FiringCounts, dead_fraction, hoyer, l0


def dense_codes() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(40, 23, generator=generator).relu()
    dense *= torch.rand(40, 23, generator=generator) < 0.3
    dense[:, 5] = 0
    dense[3] = 0
    return dense


@pytest.fixture(params=["dense", "numpy", "fixed", "ragged"])
def codes(request):
    dense = dense_codes()
    fixed = topk(dense, 23)
    return {
        "dense": dense,
        "numpy": dense.numpy(),
        "fixed": fixed,  # padded with entries of value 0, which do not count
        "ragged": fixed.to_ragged(),
    }[request.param]


def test_l0_counts_what_is_not_zero(codes):
    assert l0(codes) == pytest.approx(np.count_nonzero(dense_codes().numpy(), axis=1).mean())


def test_dead_latents_are_columns_of_zeros(codes):
    columns = dense_codes().numpy()
    assert dead_fraction(codes) == (columns == 0).all(0).mean() > 0


def test_hoyer_follows_its_formula(codes):
    rows = dense_codes().double().numpy()
    rows = rows[(rows != 0).any(1)]
    ratio = np.abs(rows).sum(1) / np.sqrt((rows**2).sum(1))
    expected = ((np.sqrt(23) - ratio) / (np.sqrt(23) - 1)).mean()
    assert hoyer(codes) == pytest.approx(expected, rel=1e-6)


def test_hoyer_is_between_one_hot_and_even():
    assert hoyer(torch.eye(4)) == 1.0
    assert hoyer(torch.full((2, 4), -3.0)) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(hoyer(torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="at least 2 latents"):
        hoyer(torch.ones(2, 1))


def test_signed_values_count():
    signed = SparseCodes(
        torch.tensor([[-1.0, 2.0], [0.0, -3.0]]), torch.tensor([[0, 1], [2, 1]]), 4
    )
    assert l0(signed) == 1.5
    assert dead_fraction(signed) == 0.5


def test_counts_over_batches_are_those_of_all_rows():
    dense = dense_codes()
    counts = FiringCounts(23)
    for part in dense.split(7):
        counts.add(topk(part, 11))
    fired = topk(dense, 11).to_dense().numpy() != 0
    assert counts.n_rows == 40
    np.testing.assert_array_equal(counts.counts_F.numpy(), fired.sum(0))
    np.testing.assert_allclose(counts.frequency.numpy(), fired.mean(0))
    assert counts.l0 == fired.sum(1).mean()
    assert counts.dead_fraction == (~fired).all(0).mean()
    assert counts.dense_fraction == (fired.mean(0) > 0.1).mean()


def test_the_histogram_holds_every_latent_once():
    counts = FiringCounts(4)
    counts.add(SparseCodes(torch.ones(100, 1), torch.zeros(100, 1, dtype=torch.long), 4))
    counts.add(SparseCodes(torch.ones(1, 1), torch.tensor([[2]]), 4))
    found = counts.histogram(n_bins=10)
    assert len(found["log10_edges"]) == 11
    assert found["log10_edges"][0] == pytest.approx(-math.log10(101))
    assert found["log10_edges"][-1] == 0.0
    assert found["counts"] == [1] + [0] * 8 + [1]  # once in 101 rows, and nearly always
    assert found["never"] == 2


def test_no_rows_give_nan_and_no_error():
    counts = FiringCounts(3)
    assert math.isnan(counts.l0)
    assert counts.dead_fraction == 1.0
    assert sum(counts.histogram()["counts"]) == 0
    assert math.isnan(l0(torch.zeros(0, 3)))


def test_a_number_is_no_code():
    with pytest.raises(ValueError, match=r"must have shape \(\.\.\., n_latents\)"):
        l0(torch.tensor(1.0))
