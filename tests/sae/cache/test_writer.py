"""What `write` puts in a cache, checked against running the model by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sae.cache
from sae.cache import Cache
from sae.cache.format import read_manifest
from sparsecode.io import CorruptFileError

EVERY_LAYER = "encoder.layer.*"


def by_hand(model: nn.Module, contexts: list[list[int]], layer: int) -> list[Tensor]:
    """Return the output of a layer for each context alone: no batch, no padding, no truncation."""
    with torch.no_grad():
        return [
            model.eval()(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer + 1][0]
            for ids in contexts
        ]


def content(cache: Cache) -> tuple[Tensor, ...]:
    n = cache.n_rows
    return (
        cache.rows(0, n, dtype=None), cache.token_ids(0, n), cache.positions(0, n),
        cache.document_ids(0, n),
    )  # fmt: skip


def test_rows_are_what_the_model_gives(
    write: Callable[..., Cache], bert: nn.Module, bert_tokenizer: Any, texts: list[str]
) -> None:
    cache = write(hookpoints=EVERY_LAYER, dtype="float32")
    contexts, documents = [], []
    for number, text in enumerate(texts):
        ids = bert_tokenizer(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids), 6):
            contexts.append([2, *ids[start : start + 6], 3])
            documents.append(number)
    for layer, name in enumerate(cache.hookpoints):
        rows, tokens, positions, found = content(cache.at(name))
        torch.testing.assert_close(
            rows, torch.cat([part[1:-1] for part in by_hand(bert, contexts, layer)])
        )
        assert tokens.tolist() == [i for ids in contexts for i in ids[1:-1]]
        assert positions.tolist() == [i for ids in contexts for i in range(1, len(ids) - 1)]
        assert found.tolist() == [
            number for number, ids in zip(documents, contexts, strict=True) for _ in ids[1:-1]
        ]
    words = [cache.vocabulary[i] for i in tokens[found == 9]]
    assert words == bert_tokenizer.tokenize(texts[9])


def test_special_tokens_are_kept_on_request(write: Callable[..., Cache], bert: nn.Module) -> None:
    cache = write([[2, 5, 6, 3], [2, 7, 3, 1, 1]], drop_special_tokens=False, dtype="float32")
    assert cache.token_ids(0, cache.n_rows).tolist() == [2, 5, 6, 3, 2, 7, 3]
    torch.testing.assert_close(
        cache.rows(0, 7), torch.cat(by_hand(bert, [[2, 5, 6, 3], [2, 7, 3]], layer=0))
    )


def test_a_causal_model_without_padding_token(
    gpt2: nn.Module, gpt2_tokenizer: Any, tmp_path: Path
) -> None:
    words = ["cat", "the cat sat on a mat", "dog ran"]
    cache = sae.cache.write(
        gpt2, words, "h.[02]", tmp_path, tokenizer=gpt2_tokenizer, dtype="float32", progress=False
    )
    contexts = [gpt2_tokenizer(text)["input_ids"] for text in words]
    assert cache.token_ids(0, cache.n_rows).tolist() == [i for ids in contexts for i in ids]
    torch.testing.assert_close(cache.rows(0, cache.n_rows), torch.cat(by_hand(gpt2, contexts, 0)))
    assert cache.positions(0, 3).tolist() == [0, 0, 1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_and_the_statistics_are_those_of_the_stored_rows(
    write: Callable[..., Cache], dtype: str
) -> None:
    cache = write(dtype=dtype)
    exact = cache.rows(0, cache.n_rows, dtype=torch.float64)
    assert cache.dtype == getattr(torch, dtype)
    assert cache.statistics.rows == cache.n_rows
    torch.testing.assert_close(cache.mean, exact.mean(0), rtol=1e-12, atol=1e-14)
    norms = exact.norm(dim=1)
    assert cache.statistics.mean_norm == pytest.approx(norms.mean().item(), rel=1e-12)
    assert cache.statistics.mean_squared_norm == pytest.approx((norms**2).mean().item(), rel=1e-12)
    assert cache.statistics.norm_quantile(0.5) == pytest.approx(norms.median().item(), rel=0.03)


def test_shards_do_not_change_the_rows(write: Callable[..., Cache], tmp_path: Path) -> None:
    caches = [
        write(out=tmp_path / str(rows), shard_rows=rows, dtype="float32", batch_size=64)
        for rows in (10, 50, None)
    ]
    shards = [[shard.rows for shard in read_manifest(cache.path).shards] for cache in caches]
    assert [len(rows) for rows in shards] == [23, 5, 1]
    assert [max(rows) for rows in shards[:2]] == [10, 49]
    for cache in caches[:2]:
        for found, expected in zip(content(cache), content(caches[2]), strict=True):
            torch.testing.assert_close(found, expected)


def test_the_same_call_writes_the_same_bytes(write: Callable[..., Cache], tmp_path: Path) -> None:
    first, second = (write(out=tmp_path / name) for name in "ab")
    names = [path.relative_to(first.path) for path in first.path.rglob("*") if path.is_file()]
    assert len(names) == 18
    for name in names:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert first.fingerprint == second.fingerprint
    assert not (first.path / "journal").exists()


@pytest.mark.parametrize("max_tokens", [1, 29, 30, 31, 77])
def test_writing_stops_at_the_wanted_number_of_rows(
    write: Callable[..., Cache], max_tokens: int, tmp_path: Path
) -> None:
    whole = write(dtype="float32")
    cache = write(max_tokens=max_tokens, out=tmp_path / "part", dtype="float32")
    assert cache.n_rows == max_tokens
    torch.testing.assert_close(cache.rows(0, max_tokens), whole.rows(0, max_tokens))
    assert torch.equal(cache.token_ids(0, max_tokens), whole.token_ids(0, max_tokens))


def test_append_adds_rows_and_documents(
    write: Callable[..., Cache], tmp_path: Path, texts: list[str]
) -> None:
    write(texts[:10])
    before = content(write(texts[:10]))
    cache = write(texts[10:], append=True, shard_rows=20)
    whole = write(out=tmp_path / "whole")
    n = len(before[0])
    assert cache.n_rows == whole.n_rows
    assert all(torch.equal(a[:n], b) for a, b in zip(content(cache), before, strict=True))
    for found, expected in zip(content(cache)[1:], content(whole)[1:], strict=True):
        assert torch.equal(found, expected)
    torch.testing.assert_close(cache.rows(n, n + 9), whole.rows(n, n + 9), rtol=0, atol=2e-3)
    assert cache.statistics.rows == cache.n_rows
    torch.testing.assert_close(cache.mean, cache.rows(0, cache.n_rows).double().mean(0))
    cache.verify()


def test_append_to_nothing_begins_a_cache(write: Callable[..., Cache]) -> None:
    assert write(append=True).n_rows > 0


def test_the_same_texts_are_not_appended_twice_in_a_row(
    write: Callable[..., Cache], texts: list[str]
) -> None:
    n = write(texts[:9]).n_rows
    added = write(texts[:9], append=True).n_rows
    assert added == 2 * n
    with pytest.warns(UserWarning, match="nothing was added to .*appended the same texts"):
        assert write(texts[:9], append=True).n_rows == added
    assert write(texts[9:12], append=True).n_rows > added


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"dtype": "float32"}, "dtype='float16' instead of 'float32'"),
        ({"hookpoints": "encoder.layer.0"}, "hookpoints=.* instead of"),
        ({"context_length": 9}, "context_length=8 instead of 9"),
        ({"drop_special_tokens": False}, "drop_special_tokens=True instead of False"),
        ({"drop_outliers": True}, "drop_outliers=False instead of 10.0"),
        ({"tokenizer": None, "texts": [[4, 5]]}, "tokenizer=.* instead of None"),
    ],
)
@pytest.mark.parametrize("append", [False, True])
def test_activations_of_another_kind_are_refused(
    write: Callable[..., Cache], change: dict[str, Any], fact: str, append: bool
) -> None:
    write()
    with pytest.raises(ValueError, match=f"`out` must hold activations of the same kind; .*{fact}"):
        write(append=append, **change)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"texts": ["the cat"]}, "holds a cache with other texts.*append=True"),
        ({"batch_size": 3}, "holds a cache with options.batch_size=2 instead of 3"),
        ({"max_tokens": 50}, "holds a cache with options.max_tokens=None instead of 50"),
        ({"resume": False}, "hold no cache with resume=False"),
    ],
)
def test_a_finished_cache_is_not_overwritten(
    write: Callable[..., Cache], change: dict[str, Any], fact: str
) -> None:
    before = content(write())
    with pytest.raises(ValueError, match=f"`out` must .*{fact}"):
        write(**change)
    assert all(torch.equal(a, b) for a, b in zip(content(write()), before, strict=True))


def test_a_longer_text_with_the_same_beginning_is_another_text(
    write: Callable[..., Cache], texts: list[str]
) -> None:
    write(texts[:5])
    with pytest.raises(ValueError, match="holds a cache with other texts"):
        write(texts[:6])
    with pytest.raises(ValueError, match="holds a cache with other texts"):
        write(texts[:4])


@pytest.mark.parametrize("texts", [[], ["", "  "], [[]], [[1, 1, 1]], ["[SEP]", "[CLS] [SEP]"]])
def test_texts_without_tokens_are_refused_and_leave_nothing(
    write: Callable[..., Cache], texts: list[Any], tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=f"must hold at least one token to cache; got {len(texts)} documents"
    ):
        write(texts)
    assert not (tmp_path / "acts").exists()


def test_numpy_token_ids_and_a_model_of_ones_own(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 5))
    ids = np.array([[1, 2, 3], [3, 2, 1]])
    cache = sae.cache.write(model, ids, ["0", "1"], tmp_path, dtype="float32", progress=False)
    assert (cache.hookpoints, cache.n_features, cache.at("1").n_features) == (["0", "1"], 4, 5)
    expected = model(torch.from_numpy(ids)).detach().reshape(6, 5)
    assert torch.equal(cache.at("1").rows(0, 6), expected)


def test_a_damaged_cache_is_not_appended_to(write: Callable[..., Cache]) -> None:
    cache = write()
    text = (cache.path / "manifest.json").read_text()
    (cache.path / "manifest.json").write_text(text.replace("0", "1", 1))
    with pytest.raises(CorruptFileError, match=r"manifest.json"):
        write(append=True)
