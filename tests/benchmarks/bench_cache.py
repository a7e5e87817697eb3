"""Reading a cache shuffled, against copying the same bytes, and against the cache of SAELens.

    python tests/benchmarks/bench_cache.py [--smoke]

The bytes are in the page cache: this compares programs, not disks. Every run reads all rows once,
and starts its own stream. METHODS are described in README.md.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from measure import interleave  # noqa: E402

import sae.cache  # noqa: E402
from sae.cache import Cache  # noqa: E402

WIDTH, CONTEXT, BATCH = 768, 128, 4096
PROMPTS = 32  # contexts that SAELens takes from its data set at a time, its default
BUFFER = 64 * CONTEXT  # rows in its mixing buffer
SIZES = {"float16": (2048, 8192), "float32": (1024, 4096)}  # contexts: 0.4 and 1.6 GB


class Table(nn.Module):
    """A model that looks its activations up, so that writing costs next to nothing but writing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(4096, width)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids)


def run(*, device: str = "cpu", smoke: bool = False) -> list[dict]:
    """Return one row per way of reading or writing; `device` does not matter here."""
    rows = []
    sizes = {"float16": (64,), "float32": (64,)} if smoke else SIZES
    for dtype, n_contexts in ((dtype, size) for dtype, found in sizes.items() for size in found):
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as folder:
            found, cache = time_writing(Path(folder), n_contexts, dtype)
            found += time_reading(cache, Path(folder), smoke)
            size = cache.n_rows * WIDTH * cache.dtype.itemsize
            rows += [{"case": f"{size / 1e6:.0f} MB {dtype}", **row} for row in found]
    return rows


def time_writing(folder: Path, n_contexts: int, dtype: str) -> tuple[list[dict], Cache]:
    """Return the speed of `write` with a model that costs nothing, and what it wrote."""
    torch.manual_seed(0)
    ids = torch.randint(0, 4096, (n_contexts, CONTEXT))
    start = time.perf_counter()
    out = folder / "acts"
    cache = sae.cache.write(Table(WIDTH), ids, "table", out, dtype=dtype, progress=False)
    seconds = time.perf_counter() - start
    size = cache.n_rows * WIDTH * cache.dtype.itemsize
    row = {"name": "write, model for free", "gb_per_s": size / seconds / 1e9, "ms": seconds * 1e3}
    return [row | {"tokens_per_s": cache.n_rows / seconds}], cache


def time_reading(cache: Cache, folder: Path, smoke: bool) -> list[dict]:
    """Return the time of each way to read all rows, and its ratio to the copy."""
    size = cache.n_rows * cache.n_features * cache.dtype.itemsize
    start = time.perf_counter()
    consume(cache.batches(BATCH, epochs=1, dtype=None))
    verifying = time.perf_counter() - start
    check_order(cache)
    peers, missing = theirs(cache, folder)  # ours are checked above, theirs there
    timings = interleave(
        ours(cache) | peers,
        baseline="copy of the mapped file into new memory",
        rounds=1 if smoke else 7,
        warmup=0 if smoke else 1,
        seconds=120,
    )
    rows = [
        {"name": name, "gb_per_s": size / timing.row()["ms"] / 1e6, **timing.row()}
        for name, timing in timings.items()
    ]
    name = "shuffled, as stored, first epoch after opening: with checksums"
    rows.append({"name": name, "gb_per_s": size / verifying / 1e9, "ms": verifying * 1e3})
    rows += [{"name": name, "note": note} for name, note in missing.items()]
    return rows


def check_order(cache: Cache) -> None:
    """Read a shuffled epoch; raise unless it holds every row once."""
    total, n_rows = torch.zeros(cache.n_features, dtype=torch.float64), 0
    for batch in cache.batches(BATCH, epochs=1, dtype=None):
        total += batch.sum(0, dtype=torch.float64)
        n_rows += len(batch)
    torch.testing.assert_close(total / n_rows, cache.mean, rtol=1e-6, atol=1e-9)
    assert n_rows == cache.n_rows


def ours(cache: Cache) -> dict[str, Callable[[], object]]:
    """Return the ways to read all rows with this library, the baseline first."""
    shards = range(len(cache._first_blocks) - 1)
    maps = [np.asarray(cache._shards.get(shard).activations) for shard in shards]
    target = np.ones((cache.n_rows, cache.n_features), maps[0].dtype)  # its pages are there

    def copy_to_new_memory() -> None:
        for rows in maps:
            np.array(rows)

    def copy() -> None:
        at = 0
        for rows in maps:
            np.copyto(target[at : at + len(rows)], rows)
            at += len(rows)

    def copy_in_batches() -> None:
        for rows in maps:
            for start in range(0, len(rows), BATCH):
                rows[start : start + BATCH].copy()

    def stream(**options: object) -> Callable[[], object]:
        return lambda: consume(cache.batches(BATCH, epochs=1, **options))

    readers = {
        "copy of the mapped file into new memory": copy_to_new_memory,
        "copy into warm memory": copy,
        "copy into warm memory, a batch at a time": copy_in_batches,
        "shuffled, as stored": stream(dtype=None),
        "in order, as stored": stream(dtype=None, shuffle=False),
    }
    if cache.dtype != torch.float32:
        readers["shuffled, as float32"] = stream()
    return readers


def theirs(cache: Cache, folder: Path) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Return the ways in which SAELens reads the same rows, and notes on what is not installed.

    Its reader keeps half of its mixing buffer: to serve as many rows as there are, it reads 4,096
    more.
    """
    try:
        from sae_lens.training.activations_store import ActivationsStore
    except ImportError as error:
        return {}, {"SAELens, cached activations": f"not measured: {error}"}
    path = write_dataset(cache, folder)
    first = cache.rows(0, PROMPTS * CONTEXT, dtype=None)
    readers = {}
    for dtype in dict.fromkeys([str(cache.dtype).removeprefix("torch."), "float32"]):
        store = ActivationsStore(
            model=None,
            dataset=None,
            cached_activations_path=str(path),
            hook_name="acts",
            hook_head_index=None,
            d_in=cache.n_features,
            context_size=CONTEXT,
            store_batch_size_prompts=PROMPTS,
            n_batches_in_buffer=BUFFER // CONTEXT,
            train_batch_size_tokens=BATCH,
            total_training_tokens=cache.n_rows,
            normalize_activations="none",
            prepend_bos=False,
            streaming=False,
            device=torch.device("cpu"),
            dtype=dtype,
        )
        found, _ = store.get_raw_llm_batch()
        torch.testing.assert_close(found.to(first.dtype), first, rtol=0, atol=0)

        def shuffled(store=store) -> None:
            store.current_row_idx = 0
            consume(itertools.islice(store.get_data_loader(), cache.n_rows // BATCH))

        def in_order(store=store) -> None:
            store.current_row_idx = 0
            for _ in range(cache.n_rows // (PROMPTS * CONTEXT)):
                store.get_raw_llm_batch()

        readers[f"SAELens, shuffled, {dtype}"] = shuffled
        readers[f"SAELens, in order, {dtype}"] = in_order
    return readers, {}


def write_dataset(cache: Cache, folder: Path) -> Path:
    """Write the rows as the CacheActivationsRunner of SAELens does: its columns, in shards."""
    from datasets import Array2D, Dataset, Features, Sequence, Value, concatenate_datasets

    rows = cache.rows(0, cache.n_rows, dtype=None).reshape(-1, CONTEXT, cache.n_features)
    columns = {"acts": rows, "token_ids": cache.token_ids(0, cache.n_rows).reshape(-1, CONTEXT)}
    features = Features(
        {
            "acts": Array2D(shape=rows.shape[1:], dtype=str(rows.dtype).removeprefix("torch.")),
            "token_ids": Sequence(Value("int32"), length=CONTEXT),
        }
    )
    parts = []
    for start in range(0, len(rows), 512):
        shard = {name: column[start : start + 512].numpy() for name, column in columns.items()}
        Dataset.from_dict(shard, features=features).save_to_disk(folder / f"part{start}")
        parts.append(Dataset.load_from_disk(folder / f"part{start}"))
    concatenate_datasets(parts).save_to_disk(folder / "arrow", num_shards=len(parts))
    return folder / "arrow"


def consume(batches: Iterator[Tensor]) -> None:
    """Take every batch and let it go, as a training step on another device would."""
    for _ in batches:
        pass


def main() -> int:
    """Run without the harness and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--smoke", action="store_true")
    from run import table

    print(table(run(smoke=parser.parse_args().smoke)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
