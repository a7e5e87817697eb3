"""Streams of batches: every row once, any order from any place, nothing left running."""

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sae.cache
from sae.cache import Cache


def sorted_rows(rows: Tensor) -> Tensor:
    return rows[np.lexsort(rows.T.numpy())]


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "sparsecode" in thread.name]


@pytest.mark.parametrize("split", [None, "train", "heldout"])
def test_ranges_and_gathers_agree(blocks: Cache, split: str | None) -> None:
    cache = blocks.with_split(split, 0.4)
    n = cache.n_rows
    whole = cache.rows(0, n)
    for start, stop in [(0, 0), (n, n), (0, 1), (n - 1, n), (3, 17), (5, n - 2)]:
        assert torch.equal(cache.rows(start, stop), whole[start:stop])
        for read in (cache.token_ids, cache.positions, cache.document_ids):
            assert torch.equal(read(start, stop), read(0, n)[start:stop])
    picked = torch.randint(0, n, (50,))
    assert torch.equal(cache.take(picked), whole[picked])
    assert torch.equal(cache.take(picked.numpy(), dtype=torch.float16), whole[picked].half())
    assert cache.take([]).shape == (0, 16)
    assert cache.take([n - 1, 0, 0]).tolist() == whole[[n - 1, 0, 0]].tolist()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 10_000)])
def test_ranges_outside_of_the_cache_are_refused(cache: Cache, start: int, stop: int) -> None:
    for read in (cache.rows, cache.token_ids):
        with pytest.raises(
            IndexError, match=f"0 <= start <= stop <= n_rows.*got {start} and {stop}"
        ):
            read(start, stop)
    with pytest.raises(IndexError, match="0 <= start <= stop <= n_rows"):
        cache.take([cache.n_rows])


def test_rows_belong_to_the_reader(cache: Cache) -> None:
    before = cache.rows(0, 5)
    cache.rows(0, 5).zero_()
    cache.rows(0, 5, dtype=None).zero_()
    next(cache.batches(5, shuffle=False)).zero_()
    assert torch.equal(cache.rows(0, 5), before)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("wanted", [None, torch.float32, torch.float64, torch.bfloat16])
def test_dtypes(write: Callable[..., Cache], stored: str, wanted: torch.dtype | None) -> None:
    cache = write(dtype=stored)
    exact = cache.rows(0, cache.n_rows, dtype=None)
    expected = exact if wanted is None else exact.to(wanted)
    assert torch.equal(cache.rows(0, cache.n_rows, dtype=wanted), expected)
    (batch,) = cache.batches(cache.n_rows, epochs=1, shuffle=False, dtype=wanted)
    assert batch.dtype == expected.dtype
    assert torch.equal(batch, expected)


@pytest.mark.parametrize("window_bytes", [1, 1000, 3000, 2**28])
@pytest.mark.parametrize("split", [None, "train", "heldout"])
def test_every_row_once_an_epoch(blocks: Cache, window_bytes: int, split: str | None) -> None:
    cache = blocks.with_split(split, 0.4)
    whole = cache.rows(0, cache.n_rows)
    for shuffle in (True, False):
        batches = list(cache.batches(7, epochs=2, shuffle=shuffle, window_bytes=window_bytes))
        assert {len(batch) for batch in batches[:-1]} == {7}
        stream = torch.cat(batches)
        assert len(stream) == 2 * len(whole)
        for epoch in stream.split(len(whole)):
            assert torch.equal(sorted_rows(epoch), sorted_rows(whole))
            assert torch.equal(epoch, whole) is not shuffle


@pytest.mark.parametrize("window_bytes", [1000, 2**28])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_stream_continues_from_every_row(blocks: Cache, window_bytes: int, shuffle: bool) -> None:
    options: dict[str, Any] = {"seed": 5, "shuffle": shuffle, "window_bytes": window_bytes}
    n = 2 * blocks.n_rows + 20
    whole = torch.cat(list(islice(blocks.batches(n, **options), 1)))
    for start_row in [0, 1, 6, 7, blocks.n_rows - 1, blocks.n_rows, blocks.n_rows + 11, n - 1]:
        for batch_size in (1, 10, 64):
            stream = blocks.batches(batch_size, start_row=start_row, **options)
            rows = torch.cat(list(islice(stream, 3)))[: n - start_row]
            assert torch.equal(rows, whole[start_row : start_row + len(rows)])
            stream.close()


def test_the_order_depends_on_the_seed_only(cache: Cache) -> None:
    def rows(seed: int) -> Tensor:
        return torch.cat(list(cache.batches(9, seed=seed, epochs=1)))

    assert torch.equal(rows(1), rows(1))
    assert not torch.equal(rows(1), rows(2))
    before = torch.random.get_rng_state()
    rows(3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_rows_that_were_served_are_not_read_again(
    blocks: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = Cache._read_block

    def counting(self: Cache, block: int) -> np.ndarray:
        read.append(int(block))
        return original(self, block)

    monkeypatch.setattr(Cache, "_read_block", counting)
    stream = blocks.batches(4, start_row=blocks.n_rows - 4, epochs=1, window_bytes=1500)
    assert len(list(stream)) == 1
    assert len(set(read)) < len(blocks._ends) / 2


@pytest.mark.parametrize(
    ("option", "fact"),
    [
        ({"batch_size": 0}, "`batch_size` must be an int in"),
        ({"batch_size": 4, "start_row": -1}, "`start_row` must be an int in"),
        ({"batch_size": 4, "seed": -1}, "`seed` must be an int in"),
        ({"batch_size": 4, "epochs": 0}, "`epochs` must be an int in"),
    ],
)
def test_bad_options_are_refused_at_once(cache: Cache, option: dict[str, int], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        cache.batches(**option)


def test_no_thread_outlives_its_stream(cache: Cache) -> None:
    assert len(list(cache.batches(5, epochs=1))) > 1
    assert running() == []
    stream = cache.batches(5)
    next(stream)
    assert running() != []
    stream.close()
    assert running() == []
    abandoned = cache.batches(5)
    next(abandoned)
    del abandoned
    assert running() == []
    cache.batches(5)  # not begun: nothing was started
    assert running() == []


def test_errors_in_the_threads_reach_the_consumer(cache: Cache) -> None:
    (cache.path / "activations/encoder.layer.0/000001.safetensors").unlink()
    with pytest.raises(
        sae.cache.CorruptFileError, match=r"000001.safetensors.*the file is missing"
    ):
        list(cache.batches(5, epochs=1))
    assert running() == []


def batches_in_threads(cache: Cache, found: list[Tensor]) -> Iterator[threading.Thread]:
    for seed in range(4):
        yield threading.Thread(
            target=lambda s=seed: found.append(torch.cat(list(cache.batches(11, seed=s, epochs=1))))
        )


def test_several_threads_can_read_one_cache(blocks: Cache) -> None:
    found: list[Tensor] = []
    threads = list(batches_in_threads(blocks, found))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = sorted_rows(blocks.rows(0, blocks.n_rows))
    assert len(found) == 4
    assert all(torch.equal(sorted_rows(rows), whole) for rows in found)


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_what_is_kept_of_a_batch_is_not_written_over(cache: Cache, dtype: Any) -> None:
    expected = [batch.clone() for batch in cache.batches(8, epochs=2, dtype=dtype)]
    stream = cache.batches(8, epochs=2, dtype=dtype)
    kept = [(batch[:2], batch[-1].numpy(), batch.t()[1]) for batch in stream]
    for whole, (head, row, column) in zip(expected, kept, strict=True):
        assert torch.equal(head, whole[:2])
        assert torch.equal(torch.from_numpy(row), whole[-1])
        assert torch.equal(column, whole[:, 1])
