"""Errors when rows keep equally many entries: by magnitude, as they are."""

import pytest
import torch
from scipy import sparse

from sparsecode import SparseCodes
from sparsecode.metrics import fvu, fvu_at_sparsity


def by_definition(x, dense, dictionary, k, bias):
    kept = torch.zeros_like(dense)
    for row, values in enumerate(dense):
        largest = values.abs().argsort(descending=True, stable=True)[:k]
        kept[row, largest] = values[largest]
    return fvu(x, kept @ dictionary + bias)


@pytest.mark.parametrize("ragged", [False, True])
def test_the_largest_entries_are_kept_whatever_their_sign(ragged):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).double()  # noqa: E731
    x, dictionary, bias = draw(11, 5), draw(9, 5), draw(5)
    dense = draw(11, 9) * (draw(11, 9) > 0)
    codes = SparseCodes.from_scipy(sparse.csr_array(dense.numpy()))
    codes = codes if ragged else codes.to_fixed()
    found = fvu_at_sparsity(x, codes, dictionary, [0, 1, 3, 9, 50], bias=bias)
    assert list(found) == [0, 1, 3, 9, 50]
    for k, value in found.items():
        assert value == pytest.approx(float(by_definition(x, dense, dictionary, k, bias)))


def test_a_negative_budget_is_refused():
    codes = SparseCodes(torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match=r"`budgets` must be an int in \[0, inf\); got -1"):
        fvu_at_sparsity(torch.ones(2, 4), codes, torch.ones(3, 4), [-1])
