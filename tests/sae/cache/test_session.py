"""A writer that is interrupted anywhere continues, and the result is the same to the last byte."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from sae.cache import Cache
from sae.cache import open as open_cache

ROOT = Path(__file__).parents[3]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.timeout(1200)  # a hundred processes, on a machine that may be busy
def test_a_writer_killed_at_random_moments_continues(in_memory: Path) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_writer.py"), in_memory],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shards"] >= 10
    assert found["interrupted"] >= 20, "the kills came too late to test anything"
    assert found["with_shards"] >= 3, "the kills came too early to test anything"
    assert found["different"] == 0
    assert found["written_again"] == 0


@pytest.mark.parametrize("append", [False, True])
def test_every_single_step_can_be_the_last(
    write: Callable[..., Cache],
    cut: Callable[[int], AbstractContextManager[list[str]]],
    texts: list[str],
    tmp_path: Path,
    append: bool,
) -> None:
    base = write(texts[:4], out=tmp_path / "base").path

    def cache_in(folder: str) -> Path:
        if append:
            shutil.copytree(base, tmp_path / folder)
        return tmp_path / folder

    def call(out: Path) -> Cache:
        return write(texts[4:9], out=out, append=append, shard_rows=20)

    expected = files(call(cache_in("undisturbed")).path)
    step, seen = 0, set()
    while True:
        out = cache_in(str(step))
        with cut(step) as steps:
            call(out)
        if steps.pop() != "cut":
            break
        seen.update(Path(name).parent.name for name in steps)
        if append:  # what was there stays readable all the time
            assert open_cache(out, "encoder.layer.0").n_rows > 0
        with warnings.catch_warnings():  # all may have been done but the end of the journal
            warnings.filterwarnings("ignore", message="nothing was added")
            call(out)
        assert files(out) == expected, f"differs when cut at step {step}: {steps[-1:]}"
        step += 1
    assert step > 15
    assert {"tokens", "index", "encoder.layer.0", "encoder.layer.1", "journal"} <= seen


def test_an_unfinished_cache_is_not_opened(interrupted: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"interrupted. Make the same call of `sae.cache.write`"
    ):
        open_cache(interrupted)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"batch_size": 3}, "options.batch_size=2 instead of 3"),
        ({"max_tokens": 70}, "options.max_tokens=None instead of 70"),
        ({"dtype": "float32"}, "dtype='float16' instead of 'float32'"),
        ({"append": True}, "append=False instead of True"),
        ({"texts": ["another text"]}, "`texts` must be the same as in the interrupted call"),
    ],
)
def test_another_call_does_not_continue(
    write: Callable[..., Cache],
    interrupted: Path,
    tmp_path: Path,
    change: dict[str, Any],
    fact: str,
) -> None:
    before = {name: data for name, data in files(interrupted).items() if name[-4:] != ".tmp"}
    with pytest.raises(ValueError, match=fact):
        write(**change)
    assert files(interrupted) == before
    assert files(write().path) == files(write(out=tmp_path / "undisturbed").path)
