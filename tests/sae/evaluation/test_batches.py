"""Whatever tokens come as, the same contexts come out."""

from typing import Any

import pytest
import torch

from sae.cache.models import load
from sae.evaluation.batches import Masking, contexts_of, in_batches


@pytest.mark.parametrize(
    "tokens",
    [
        torch.tensor([[5, 6, 7], [8, 9, 10]]),
        [[5, 6, 7], [8, 9, 10]],
        {"input_ids": [[5, 6, 7], [8, 9, 10]]},
        {
            "input_ids": [[0, 5, 6, 7], [8, 9, 10, 0]],
            "attention_mask": [[0, 1, 1, 1], [1, 1, 1, 0]],
        },
    ],
    ids=["tensor", "lists", "mapping", "mask"],
)
def test_kinds_of_tokens(gpt2_lm: Any, tokens: Any) -> None:
    loaded, _ = load(gpt2_lm, None, None)
    found = list(contexts_of(loaded, tokens, None, True))
    assert [context.ids.tolist() for context in found] == [[5, 6, 7], [8, 9, 10]]


def test_one_row_of_ids_and_contexts_as_long_as_the_model_takes(gpt2_lm: Any) -> None:
    loaded, _ = load(gpt2_lm, None, None)
    ids = torch.arange(4, 40).repeat(2)
    assert [len(c.ids) for c in contexts_of(loaded, ids, None, True)] == [32, 32, 8]
    assert [len(c.ids) for c in contexts_of(loaded, ids, 30, True)] == [30, 30, 12]


def test_texts_are_framed_and_frames_are_not_kept(bert_folder: Any) -> None:
    loaded, _ = load(bert_folder, None, None)
    (context,) = contexts_of(loaded, "the cat sat", None, True)
    assert context.ids.tolist() == [2, 4, 9, 12, 3]
    assert context.keep.tolist() == [False, True, True, True, False]
    (context,) = contexts_of(loaded, ["the cat sat"], None, False)
    assert context.keep.all()


def test_batches_are_padded_and_bounded(gpt2_lm: Any) -> None:
    loaded, _ = load(gpt2_lm, None, None)
    contexts = list(contexts_of(loaded, [[5, 6], [7, 0, 9, 10], [11, 12, 13]], None, True))
    found = list(in_batches(contexts, 6))
    assert [batch.ids.tolist() for batch in found] == [[[7, 0, 9, 10]], [[11, 12, 13], [5, 6, 0]]]
    assert found[0].keep.tolist() == [[True, False, True, True]]  # 0 ends texts
    assert found[1].mask.tolist() == found[1].keep.long().tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_context_hides_the_same_tokens_in_any_batch(gpt2_lm: Any) -> None:
    loaded, _ = load(gpt2_lm, None, None)
    masking = Masking(token=1, share=0.4, seed=7, special_ids=frozenset({0}))
    rows = [[5, 6, 7, 8, 9], [0, 5, 6, 0], [1, 0], [10, 11, 12, 13, 14, 15, 16]]
    contexts = list(contexts_of(loaded, rows, None, True))
    found = {}
    for size in (7, 28):
        parts = list(in_batches(contexts, size, masking))
        found[size] = {
            tuple(targets[mask.bool()].tolist()): (ids[mask.bool()].tolist(), where.sum().item())
            for part in parts
            for targets, mask, ids, where in zip(
                part.targets, part.mask, part.ids, part.hidden, strict=True
            )
        }
    assert found[7] == found[28]
    hidden = {ids: n_hidden for ids, (_, n_hidden) in found[7].items()}
    assert hidden == {tuple(rows[0]): 2, tuple(rows[1]): 1, (1, 0): 0, tuple(rows[3]): 3}
    for targets, (ids, n_hidden) in found[7].items():
        assert sum(a != b for a, b in zip(targets, ids, strict=True)) == n_hidden
        assert all(b == 1 for a, b in zip(targets, ids, strict=True) if a != b)
