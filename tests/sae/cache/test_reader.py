"""Reading: every row once, any order from any place, splits by document, nothing left running."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import sae.cache
from sae.cache import Cache
from sae.cache.format import held_out_score
from sae.cache.mapped import map_in_a_row


def test_what_a_cache_says_about_itself(cache: Cache) -> None:
    assert (cache.n_features, cache.dtype, len(cache)) == (16, torch.float32, cache.n_rows)
    assert cache.hookpoints == ["encoder.layer.0", "encoder.layer.1"]
    place = f"Cache({str(cache.path)!r}, hookpoint='encoder.layer.0'"
    assert repr(cache) == f"{place}: {cache.n_rows} rows of 16 float32)"
    assert "split='train'" in repr(cache.with_split("train"))
    assert cache.provenance["model"]["class"] == "BertModel"
    assert cache.n_documents == 24


def test_many_shards_are_not_open_at_once(
    write: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae.cache.reader._OPEN_SHARDS", 8)
    cache = write(
        [[4 + i] * 3 for i in range(12)],
        hookpoints="encoder.layer.0",
        context_length=3,
        shard_rows=3,
    )
    assert (len(cache._ends), cache.n_rows) == (12, 36)
    assert len(torch.cat(list(cache.batches(8, epochs=1)))) == cache.n_rows
    assert len(cache._shards._open) == 8


def test_splits_are_whole_documents(write: Callable[..., Cache], texts: list[str]) -> None:
    cache = write(texts * 20, shard_rows=None)
    train, heldout = (
        cache.with_split("train"),
        sae.cache.open(cache.path, cache.hookpoint, "heldout"),
    )
    sides = [set(side.document_ids(0, side.n_rows).tolist()) for side in (train, heldout)]
    assert sides[0] | sides[1] == set(range(480))
    assert not sides[0] & sides[1]
    held = np.flatnonzero(held_out_score(np.arange(480)) < 0.1)
    assert sides[1] == set(held.tolist())
    assert 0.05 < heldout.n_rows / cache.n_rows < 0.15
    assert train.n_rows + heldout.n_rows == cache.n_rows
    rows = cache.rows(0, cache.n_rows)
    in_train = np.isin(cache.document_ids(0, cache.n_rows), list(sides[0]))
    assert torch.equal(train.rows(0, train.n_rows), rows[torch.from_numpy(in_train)])
    assert len({side.fingerprint for side in (cache, train, heldout)}) == 3


def test_a_document_stays_on_its_side_when_the_cache_grows(
    write: Callable[..., Cache], texts: list[str]
) -> None:
    def held(cache: Cache) -> set[int]:
        side = cache.with_split("heldout", 0.3)
        return set(side.document_ids(0, side.n_rows).tolist())

    before = held(write(texts))
    after = held(write(texts[::-1], append=True))
    assert before == {number for number in after if number < len(texts)}
    assert after > before


def test_a_small_cache_holds_out_at_least_one_document(write: Callable[..., Cache]) -> None:
    cache = write(["the cat", "a dog", "birds sang"])
    heldout = cache.with_split("heldout", 1e-6)
    assert len(heldout.document_ids(0, heldout.n_rows).unique()) == 1
    assert cache.with_split("train", 1e-6).n_rows + heldout.n_rows == cache.n_rows


def test_a_single_document_cannot_be_split(write: Callable[..., Cache]) -> None:
    cache = write(["the cat sat on a mat"])
    with pytest.raises(
        ValueError,
        match=r"`split` needs rows of at least two documents; .* has 1, .*heldout_fraction=0\.",
    ):
        cache.with_split("train")
    assert cache.n_rows == 6
    whole = sae.cache.open(cache.path, cache.hookpoint, "train", heldout_fraction=0)
    assert (whole.n_rows, whole.split) == (6, "train")
    with pytest.raises(ValueError, match=r"`heldout_fraction` must be .* in \(0, 1\]; got 0"):
        cache.with_split("heldout", 0)


@pytest.mark.parametrize(
    ("arguments", "error", "fact"),
    [
        (
            {},
            ValueError,
            "`hookpoint` must be named, since .* 'encoder.layer.0', 'encoder.layer.1'",
        ),
        ({"hookpoint": "encoder.layer.3"}, ValueError, "'encoder.layer.3' is not. Did you mean"),
        ({"hookpoint": "encoder.layer.0", "split": "test"}, ValueError, "`split` must be one of"),
        (
            {"hookpoint": "encoder.layer.0", "split": "train", "heldout_fraction": 1.0},
            ValueError,
            "`heldout_fraction` must be",
        ),
    ],
)
def test_opening_what_is_not_there_is_refused(
    cache: Cache, arguments: dict[str, Any], error: type[Exception], fact: str
) -> None:
    with pytest.raises(error, match=fact):
        sae.cache.open(cache.path, **arguments)


def test_a_folder_that_is_no_cache_is_refused(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"must be a cache made by `sae.cache.write`"):
        sae.cache.open(tmp_path)


def test_a_cache_can_be_moved(cache: Cache, tmp_path: Any) -> None:
    before, fingerprint = cache.rows(0, cache.n_rows), cache.fingerprint
    moved = sae.cache.open(cache.path.rename(tmp_path / "elsewhere"), "encoder.layer.0")
    assert torch.equal(moved.rows(0, moved.n_rows), before)
    assert moved.fingerprint == fingerprint


@pytest.mark.parametrize("split", [None, "train"])
def test_a_stream_is_the_same_where_shards_cannot_be_mapped_in_a_row(
    write: Callable[..., Cache], split: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(shard_rows=40).path
    streams = []
    for mapping in (map_in_a_row, lambda *_: None):
        monkeypatch.setattr("sae.cache.reader.map_in_a_row", mapping)
        cache = sae.cache.open(path, "encoder.layer.0", split)
        assert len(cache._manifest.shards) > 3
        streams.append(torch.cat(list(cache.batches(7, epochs=2, dtype=None))))
        assert torch.equal(
            streams[-1].sort(0)[0], cache.rows(0, cache.n_rows, dtype=None).repeat(2, 1).sort(0)[0]
        )
    assert torch.equal(*streams)
