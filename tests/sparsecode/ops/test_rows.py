"""Rows of dictionaries from sparse lists: kernels against the definition."""

import math

import pytest
import torch

triton_rows = pytest.importorskip("sparsecode.ops.rows.triton", reason="triton is not installed")


def entries(counts, n_rows, seed=0):
    """Return shuffled latents, rows and coefficients; latent f has ``counts[f]`` entries."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    latents = latents[torch.randperm(len(latents), generator=generator)]
    rows = torch.randint(0, n_rows, (len(latents),), generator=generator)
    return latents, rows, torch.randn(len(latents), generator=generator, dtype=torch.float64)


def by_definition(latents, rows, coefficients, table, width):
    parts = coefficients.double().unsqueeze(1) * table.double()[rows]
    return torch.zeros(width, table.shape[1], dtype=torch.float64).index_add(0, latents, parts)


SEGMENT = triton_rows.SEGMENT


@pytest.mark.parametrize(
    "counts",
    [
        [SEGMENT - 1, 0, SEGMENT, SEGMENT + 1],
        [0, 0],
        [1],
        [5 * SEGMENT + 3, 1, 0, 2 * SEGMENT, 17],
        [SEGMENT + 1, SEGMENT + 1],
    ],
    ids=str,
)
@pytest.mark.parametrize("depth", [1, 3, 130])
def test_sums_of_lists_around_the_length_of_a_segment(counts, depth):
    latents, rows, coefficients = entries(counts, 7)
    table = torch.randn(depth, 7, dtype=torch.float64).t()
    got = triton_rows.row_sums(latents, rows, coefficients, table, len(counts), torch.float64)
    expected = by_definition(latents, rows, coefficients, table, len(counts))
    torch.testing.assert_close(got, expected)


def test_every_entry_of_the_result_is_written(monkeypatch):
    latents, rows, coefficients = entries([3, 0, SEGMENT + 9], 4)
    table = torch.randn(4, 5, dtype=torch.float64)
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda *args, **options: new_empty(*args, **options).fill_(-77)
    )
    got = triton_rows.row_sums(latents, rows, coefficients, table, 3, torch.float64)
    torch.testing.assert_close(got, by_definition(latents, rows, coefficients, table, 3))


def test_a_nan_that_no_entry_weighs_stays_in_its_row():
    table = torch.ones(3, 2)
    table[1] = math.nan
    latents, rows = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])
    got = triton_rows.row_sums(
        latents, rows, torch.tensor([2.0, 0.0, 3.0]), table, 2, torch.float32
    )
    assert got.tolist() == [[2.0, 2.0], [3.0, 3.0]]


def test_two_runs_are_bitwise_equal_where_order_matters():
    table = torch.tensor([[1e8], [1.0], [-1e8]])
    rows = torch.arange(3).repeat(200)
    latents, ones = torch.zeros_like(rows), torch.ones(600)
    first = triton_rows.row_sums(latents, rows, ones, table, 1, torch.float32)
    assert torch.equal(first, triton_rows.row_sums(latents, rows, ones, table, 1, torch.float32))
