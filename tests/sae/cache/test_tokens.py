"""Contexts cover every token once; batches are full and hold similar lengths."""

from typing import Any

import numpy as np
import pytest

from sae.cache.texts import Documents
from sae.cache.tokens import Context, Contexts, Place, batches, next_pool, padded, special_frame

BEGIN = Place()


def contexts_of(
    texts: list[Any], tokenizer: Any, start: Place = BEGIN, **options: Any
) -> list[Context]:
    settings = {"context_length": 6, "special_ids": {1, 2, 3}, "pad_id": 1, "n_tokens": 32}
    return list(Contexts(tokenizer, **(settings | options)).of(Documents(texts), start))


def test_long_texts_are_cut_and_framed(bert_tokenizer: Any) -> None:
    words = ["the", "cat", "sat", "on", "a"]
    found = contexts_of([" ".join(words), "", "dog"], bert_tokenizer)
    ids = bert_tokenizer.convert_tokens_to_ids
    assert [context.ids.tolist() for context in found] == [
        [2, *ids(words[:4]), 3], [2, *ids(words[4:]), 3], [2, *ids(["dog"]), 3]
    ]  # fmt: skip
    assert [context.keep.tolist() for context in found] == [
        [False, True, True, True, True, False], [False, True, False], [False, True, False]
    ]  # fmt: skip
    assert [(c.after.documents, c.after.contexts) for c in found] == [(1, 1), (1, 2), (3, 1)]


def test_frames_of_tokenizers(bert_tokenizer: Any, gpt2_tokenizer: Any) -> None:
    assert special_frame(bert_tokenizer) == ([2], [3])
    assert special_frame(gpt2_tokenizer) == ([], [])
    assert special_frame(None) == ([], [])


def test_all_tokens_are_kept_on_request(bert_tokenizer: Any) -> None:
    (found,) = contexts_of(["the cat"], bert_tokenizer, special_ids=set())
    assert found.keep.all()


def test_token_ids_are_taken_as_they_are_but_for_padding() -> None:
    found = contexts_of([[1, 1, 4, 5, 1, 6, 1], [1, 1], [], list(range(4, 18))], None)
    assert [context.ids.tolist() for context in found] == [
        [4, 5, 1, 6], [4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15], [16, 17]
    ]  # fmt: skip
    assert found[0].keep.tolist() == [True, True, False, True]
    (unpadded,) = contexts_of([[1, 4, 1]], None, pad_id=None)
    assert unpadded.ids.tolist() == [1, 4, 1]


@pytest.mark.parametrize("texts", [[[5, 32]], [[-1]], [[5], [99, 5]]])
def test_token_ids_outside_of_the_vocabulary_are_refused(texts: list[list[int]]) -> None:
    with pytest.raises(
        ValueError, match=r"lie in the vocabulary of the model, \[0, 32\); got (32|-1|99)"
    ):
        contexts_of(texts, None)


def test_strings_without_a_tokenizer_are_refused() -> None:
    with pytest.raises(ValueError, match="`tokenizer` must be given"):
        contexts_of(["a"], None)


def test_half_a_surrogate_pair_is_no_error(bert_tokenizer: Any) -> None:
    """JSON may hold one, as an escape; tokenizers take none."""
    found = contexts_of(["the \ud800 cat", "ran"], bert_tokenizer)
    words = bert_tokenizer.convert_ids_to_tokens(found[0].ids)
    assert (words[1], set(words[2:-2]), words[-2]) == ("the", {"[UNK]"}, "cat")
    assert len(found) == 2


def test_a_context_has_room_for_text(bert_tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"must exceed the 2 special tokens .*; got 2"):
        contexts_of(["a"], bert_tokenizer, context_length=2)


def test_reading_continues_from_every_place(bert_tokenizer: Any) -> None:
    texts = ["the cat sat on a mat and dog ran to red", "", "house", [7] * 20, "birds sang"] * 60
    whole = contexts_of(texts, bert_tokenizer)
    assert len(whole) > 400
    for n in (0, 1, 2, 3, 7, 100, 399, len(whole) - 1):
        rest = contexts_of(texts, bert_tokenizer, start=whole[n].after)
        assert [c.after for c in rest] == [c.after for c in whole[n + 1 :]]
        assert all(np.array_equal(a.ids, b.ids) for a, b in zip(rest, whole[n + 1 :], strict=True))


@pytest.mark.parametrize(
    ("texts", "fact"),
    [(["the cat", "a dog"], "one of the first 2 documents differs"), (["the cat"], "these are 1")],
)
def test_other_texts_cannot_continue(bert_tokenizer: Any, texts: list[str], fact: str) -> None:
    after = contexts_of(["the cat", "a mat"], bert_tokenizer)[-1].after
    with pytest.raises(ValueError, match=f"`texts` must be the same as in the interrupted.*{fact}"):
        contexts_of(texts, bert_tokenizer, start=after)


def test_pools_and_batches_hold_every_context_once(bert_tokenizer: Any) -> None:
    texts = [" ".join(["cat"] * (1 + 7 * i % 11)) for i in range(50)]
    contexts = contexts_of(texts, bert_tokenizer, context_length=14)
    waiting, pools = iter(contexts), []
    while pool := next_pool(waiting, 60, 10**9):
        pools.append(pool)
    assert [context for pool in pools for context in pool] == contexts
    assert all(60 <= sum(len(c.ids) for c in pool) < 74 for pool in pools[:-1])
    for pool in pools:
        found = list(batches(pool, 26))
        assert sorted(np.concatenate(found)) == list(range(len(pool)))
        lengths = [[len(pool[i].ids) for i in batch] for batch in found]
        assert all(len(batch) * max(batch) <= 26 for batch in lengths)
        flat = [length for batch in lengths for length in batch]
        assert flat == sorted(flat, reverse=True)


def test_a_pool_stops_at_the_wanted_number_of_rows(bert_tokenizer: Any) -> None:
    waiting = iter(contexts_of(["the cat", "a dog ran", "birds"], bert_tokenizer))
    assert [len(next_pool(waiting, 10**9, 4)) for _ in range(3)] == [2, 1, 0]


def test_padding_is_masked(bert_tokenizer: Any) -> None:
    ids, mask = padded(contexts_of(["the cat sat", "dog"], bert_tokenizer))
    assert ids.tolist()[1][3:] == [0, 0]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
