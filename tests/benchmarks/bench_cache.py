"""Reading a cache shuffled, against copying the same bytes, and against the cache of SAELens.

    python tests/benchmarks/bench_cache.py [--smoke]

The bytes are in the page cache: this compares programs, not disks. Every run reads all rows once,
and starts its own stream. METHODS are described in README.md.
"""

import argparse
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
    for n_contexts in (64,) if smoke else (2048, 8192):
        with tempfile.TemporaryDirectory(prefix="bench-cache-") as folder:
            found, cache = time_writing(Path(folder), n_contexts)
            found += time_reading(cache, Path(folder), smoke)
            case = f"{cache.n_rows * WIDTH * cache.dtype.itemsize / 1e6:.0f} MB"
            rows += [{"case": case, **row} for row in found]
    return rows


def time_writing(folder: Path, n_contexts: int) -> tuple[list[dict], Cache]:
    """Return the speed of `write` with a model that costs nothing, and what it wrote."""
    torch.manual_seed(0)
    ids = torch.randint(0, 4096, (n_contexts, CONTEXT))
    start = time.perf_counter()
    cache = sae.cache.write(Table(WIDTH), ids, "table", folder / "acts", progress=False)
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
    contenders = ours(cache)
    notes: dict[str, str] = {}
    peers, missing = theirs(cache, folder)
    for name, read in peers.items():
        total = sum(float(batch.double().sum()) for batch in read())
        expected = float(cache.mean.sum()) * cache.n_rows
        if abs(total - expected) > 1e-3 * cache.n_rows:
            notes[name] = f"reads something else: sum {total:.4g} instead of {expected:.4g}"
        else:
            contenders[name] = lambda read=read: consume(read())
    timings = interleave(
        contenders,
        baseline="copy of the mapped file into new memory",
        rounds=1 if smoke else 7,
        warmup=0 if smoke else 1,
        seconds=120,
    )
    rows = [
        {"name": name, "gb_per_s": size / timing.row()["ms"] / 1e6, **timing.row()}
        for name, timing in timings.items()
    ]
    name = "shuffled, stored float16, first epoch after opening: with checksums"
    rows.append({"name": name, "gb_per_s": size / verifying / 1e9, "ms": verifying * 1e3})
    rows += [{"name": name, "note": note} for name, note in {**notes, **missing}.items()]
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
    target = np.ones((cache.n_rows, cache.n_features), dtype=np.float16)  # its pages are there

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

    return {
        "copy of the mapped file into new memory": copy_to_new_memory,
        "copy into warm memory": copy,
        "copy into warm memory, a batch at a time": copy_in_batches,
        "shuffled, stored float16": stream(dtype=None),
        "shuffled, as float32": stream(),
        "in order, stored float16": stream(dtype=None, shuffle=False),
    }


def theirs(
    cache: Cache, folder: Path
) -> tuple[dict[str, Callable[[], Iterator[Tensor]]], dict[str, str]]:
    """Return the ways in which SAELens reads the same rows, and notes on what is not installed."""
    try:
        from datasets import Array2D, Dataset, Features, disable_progress_bars
        from sae_lens.training.mixing_buffer import mixing_buffer
    except ImportError as error:
        return {}, {"SAELens, cached activations": f"not measured: {error}"}
    disable_progress_bars()
    rows = cache.rows(0, cache.n_rows, dtype=None).reshape(-1, CONTEXT, cache.n_features)
    features = Features({"acts": Array2D(shape=rows.shape[1:], dtype="float16")})
    parts = []
    for number, part in enumerate(rows.split(512)):  # it writes shards too
        parts.append(folder / f"arrow{number}")
        Dataset.from_dict({"acts": part.numpy()}, features=features).save_to_disk(parts[-1])
    readers = {}
    for name, dtype in {"float16": torch.float16, "float32": torch.float32}.items():
        data = _arrow(parts, dtype)

        def raw(data=data) -> Iterator[Tensor]:
            # ActivationsStore._load_raw_llm_batch_from_cached
            for start in range(0, len(data), PROMPTS):
                yield data[start : start + PROMPTS]["acts"].reshape(-1, cache.n_features)

        def mixed(raw=raw) -> Iterator[Tensor]:
            return mixing_buffer(BUFFER, BATCH, raw())

        readers[f"SAELens, mixing buffer, {name}"] = mixed
        readers[f"datasets, in order, {name}"] = raw
    return readers, {}


def _arrow(parts: list[Path], dtype: torch.dtype):
    from datasets import concatenate_datasets, load_from_disk

    data = concatenate_datasets([load_from_disk(part) for part in parts])
    data.set_format(type="torch", columns=["acts"], device="cpu", dtype=dtype)
    return data


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
