"""What `write` puts in a cache, checked against running the model by hand."""

import math
import re
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


def test_outliers_are_dropped_at_all_hookpoints(
    write: Callable[..., Cache], bert: nn.Module, tmp_path: Path
) -> None:
    # With one context in a batch, that of a single word is the one with three tokens.
    handle = bert.encoder.layer[1].register_forward_hook(
        lambda module, args, output: output * (1000 if output.shape[1] == 3 else 1)
    )
    texts = ["the cat sat", "dog", "on a red mat", "birds sang of old days"]
    try:
        whole, strict, lenient = (
            write(texts, drop_outliers=multiple, out=tmp_path / str(multiple), batch_size=1)
            for multiple in (False, True, 1e6)
        )
    finally:
        handle.remove()
    assert strict.n_rows == whole.n_rows - 1 == lenient.n_rows - 1
    assert strict.document_ids(0, strict.n_rows).unique().tolist() == [0, 2, 3]
    assert strict.n_documents == 4
    assert [c.provenance["drop_outliers"] for c in (whole, strict)] == [False, 10.0]
    assert strict.at("encoder.layer.1").statistics.norm_max < 100


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


def test_another_model_is_refused(write: Callable[..., Cache], bert: nn.Module) -> None:
    write()
    weight = bert.encoder.layer[0].output.dense.weight
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        with pytest.raises(ValueError, match=r"model.fingerprint="):
            write(append=True)
    finally:
        with torch.no_grad():
            weight[0, 0] -= 1


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
    assert not any((tmp_path / "acts").iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(
    write: Callable[..., Cache], bert: nn.Module, value: float
) -> None:
    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        if output.shape[1] > 2:
            output[:, 2][ids_seen[-1][:, 2] == 9] = value
        return output

    ids_seen: list[Tensor] = []
    handles = [
        bert.embeddings.word_embeddings.register_forward_pre_hook(
            lambda m, a: ids_seen.append(a[0])
        ),
        bert.encoder.layer[1].register_forward_hook(spoil),
    ]
    texts = [[2, 4, 5, 6, 3], [2, 7, 9, 8, 3], [2, 9, 5, 5, 3]]  # position 2 of the second
    kind = "NaN" if math.isnan(value) else "an infinity"
    message = f"hookpoint 'encoder.layer.1' must be finite in float16; got {kind} in row 4 "
    try:
        with pytest.raises(ValueError, match=message + r"\(1 rows of 9\)"):
            write(texts)
    finally:
        for handle in handles:
            handle.remove()
    assert write(texts, dtype="float32").n_rows == 9  # the failed call is not in the way


def test_values_too_large_for_float16_are_refused_with_advice(
    write: Callable[..., Cache], bert: nn.Module, tmp_path: Path
) -> None:
    handle = bert.encoder.layer[0].register_forward_hook(lambda module, args, output: output * 1e6)
    try:
        with pytest.raises(ValueError, match=r'must be finite in float16; .*Use dtype="bfloat16"'):
            write()
        cache = write(dtype="bfloat16", out=tmp_path / "b")
        assert bool(torch.isfinite(cache.rows(0, cache.n_rows)).all())
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("option", "error", "fact"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be an int in"),
        ({"max_tokens": 0}, ValueError, "`max_tokens` must be an int in"),
        ({"shard_rows": 1.5}, TypeError, "`shard_rows` must be an int in"),
        ({"drop_outliers": 0.5}, ValueError, "`drop_outliers` must be a finite number in"),
        ({"dtype": "float64"}, ValueError, "`dtype` must be one of"),
        ({"context_length": 33}, ValueError, "`context_length` must be an int in .*=32"),
        ({"hookpoints": "encoder.layer.9"}, ValueError, "matches none. Did you mean"),
        ({"texts": None}, TypeError, "`texts` must be a list of strings"),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(
    write: Callable[..., Cache],
    option: dict[str, Any],
    error: type[Exception],
    fact: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=fact):
        write(**option)
    assert not any((tmp_path / "acts").rglob("*"))


def test_a_model_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`model` must be a transformers .*could not be loaded"):
        sae.cache.write(tmp_path / "no model", ["a"], "x", tmp_path / "acts")
    with pytest.raises(TypeError, match="`model` must be a name, a folder or a torch module"):
        sae.cache.write(3, ["a"], "x", tmp_path / "acts")  # type: ignore[arg-type]


def test_two_writers_at_once_are_refused(write: Callable[..., Cache], tmp_path: Path) -> None:
    from sae.cache.journal import Journal

    with Journal(tmp_path / "acts"), pytest.raises(ValueError, match="by two processes at once"):
        write()
    assert write().n_rows > 0


def test_a_model_from_a_folder_with_its_tokenizer(
    bert: nn.Module, bert_tokenizer: Any, write: Callable[..., Cache], tmp_path: Path
) -> None:
    bert.save_pretrained(tmp_path / "model")
    bert_tokenizer.save_pretrained(tmp_path / "model")
    cache = sae.cache.write(
        tmp_path / "model", ["the cat sat on a mat"], "encoder.layer.[01]", tmp_path / "read",
        dtype="float32", device="cpu", progress=False,
    )  # fmt: skip
    expected = write(["the cat sat on a mat"], dtype="float32", context_length=32)
    torch.testing.assert_close(cache.rows(0, 6), expected.rows(0, 6))
    assert cache.provenance["model"]["fingerprint"] == expected.provenance["model"]["fingerprint"]
    assert cache.provenance["model"]["name"] == str(tmp_path / "model")
    assert cache.provenance["context_length"] == 32


def test_the_progress_bar_shows_tokens_a_second(
    write: Callable[..., Cache], capsys: pytest.CaptureFixture[str]
) -> None:
    n = write(progress=True).n_rows
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(rf"caching: 100%.* {n}/{n} .*tok/s", last)


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
