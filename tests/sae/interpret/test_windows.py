import pytest
import torch

import sae
from sae.cache import Cache
from sae.interpret import EncodedRows, token_windows

MODEL = sae.TopK(n_features=16, n_latents=20, k=4, seed=0)


def expected_window(cache: Cache, row: int, before: int, after: int) -> list[int]:
    """Return the rows of a window by walking away from `row`, a step at a time."""
    positions = cache.positions(0, cache.n_rows).tolist()
    documents = cache.document_ids(0, cache.n_rows).tolist()

    def joined(left: int) -> bool:
        inside = 0 <= left < cache.n_rows - 1
        return inside and (
            documents[left] == documents[left + 1] and positions[left] < positions[left + 1]
        )

    first = last = row
    while first > row - before and joined(first - 1):
        first -= 1
    while last < row + after and joined(last):
        last += 1
    return list(range(first, last + 1))


@pytest.mark.parametrize(("before", "after"), [(16, 8), (2, 1), (0, 0), (0, 3), (500, 500)])
def test_windows_stay_in_their_context(word_cache: Cache, before: int, after: int) -> None:
    encoded = EncodedRows(MODEL, word_cache, block_rows=64)
    dense = torch.cat([codes.to_dense() for _, codes in encoded.blocks()])
    rows = torch.arange(word_cache.n_rows)
    latents = rows % 20
    found = token_windows(encoded, latents, rows, before=before, after=after)
    tokens = word_cache.token_ids(0, word_cache.n_rows)
    for row in rows.tolist():
        window = expected_window(word_cache, row, before, after)
        length = int(found.lengths[row])
        assert (found.starts[row], length) == (window[0], len(window))
        assert found.starts[row] + found.centers[row] == row
        assert torch.equal(found.token_ids[row, :length], tokens[window])
        assert torch.equal(found.activations[row, :length], dense[window, latents[row]])
        assert (found.token_ids[row, length:] == -1).all()
        assert (found.activations[row, length:] == 0).all()


def test_the_cache_has_documents_of_several_contexts(word_cache: Cache) -> None:
    # Without them the test above would not see positions at work.
    positions = word_cache.positions(0, word_cache.n_rows)
    documents = word_cache.document_ids(0, word_cache.n_rows)
    assert ((positions.diff() <= 0) & (documents.diff() == 0)).any()


def test_missing_examples_give_empty_windows(word_cache: Cache) -> None:
    encoded = EncodedRows(MODEL, word_cache)
    latents, rows = torch.tensor([0, 1, 2]), torch.tensor([-1, 3, -1])
    found = token_windows(encoded, latents, rows)
    assert found.lengths.tolist()[::2] == [0, 0]
    assert found.lengths[1] > 0
    assert (found.token_ids[::2] == -1).all()
    none = token_windows(encoded, latents[:0], rows[:0])
    assert none.token_ids.shape == (0, 25)


def test_rows_behind_max_rows_are_not_read(word_cache: Cache) -> None:
    encoded = EncodedRows(MODEL, word_cache, max_rows=5)
    found = token_windows(encoded, torch.tensor([0]), torch.tensor([4]), after=8)
    assert int(found.starts[0] + found.lengths[0]) == 5
