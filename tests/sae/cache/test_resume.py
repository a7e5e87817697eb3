"""A writer that is interrupted anywhere continues, and the result is the same to the last byte."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae.cache import Cache
from sae.cache import open as open_cache
from sparsecode.io import CorruptFileError

ROOT = Path(__file__).parents[3]


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_writer_killed_at_random_moments_continues(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("kill_writer.py"), tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["shards"] >= 10
    assert found["interrupted"] >= 10, "the kills came too late to test anything"
    assert found["with_shards"] >= 3, "the kills came too early to test anything"
    assert found["different"] == 0
    assert found["written_again"] == 0


class PowerCut(BaseException):
    """What the writers below die of."""


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let the operating system fail at the given change of a file's name; return the changes."""
    steps: list[str] = []

    def failing(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, *args: Any, **keywords: Any) -> Any:
            if len(steps) == step:
                raise PowerCut
            steps.append(str(args[0] if args else source))
            return change(source, *args, **keywords)

        return call

    monkeypatch.setattr(os, "replace", failing(os.replace))
    monkeypatch.setattr(os, "unlink", failing(os.unlink))
    return steps


@pytest.mark.parametrize("append", [False, True])
def test_every_single_step_can_be_the_last(
    write: Callable[..., Cache], texts: list[str], tmp_path: Path, append: bool
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
        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = cut_at(monkeypatch, step)
            try:
                call(out)
                break
            except PowerCut:
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


def interrupted(write: Callable[..., Cache], out: Path, **options: Any) -> Path:
    """Leave a cache with two shards in the journal."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        cut_at(monkeypatch, 13)
        with pytest.raises(PowerCut):
            write(out=out, **options)
    assert sorted(path.name for path in (out / "journal").iterdir())[:2] == [
        "000000.json", "000001.json"
    ]  # fmt: skip
    return out


def test_an_unfinished_cache_is_not_opened(write: Callable[..., Cache], tmp_path: Path) -> None:
    out = interrupted(write, tmp_path / "acts")
    with pytest.raises(
        FileNotFoundError, match=r"interrupted. Make the same call of `sae.cache.write`"
    ):
        open_cache(out)


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
    write: Callable[..., Cache], tmp_path: Path, change: dict[str, Any], fact: str
) -> None:
    out = interrupted(write, tmp_path / "acts")
    before = {name: data for name, data in files(out).items() if not name.endswith(".tmp")}
    with pytest.raises(ValueError, match=fact):
        write(out=out, **change)
    assert files(out) == before
    assert files(write(out=out).path) == files(write(out=tmp_path / "undisturbed").path)


@pytest.mark.parametrize("name", ["000000.json", "000001.json", "session.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_journal_is_refused_by_name(
    write: Callable[..., Cache], tmp_path: Path, name: str, damage: str
) -> None:
    path = interrupted(write, tmp_path / "acts") / "journal" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(CorruptFileError, match=f"journal/{name}"):
        write()


def test_a_missing_journal_entry_is_refused_by_name(
    write: Callable[..., Cache], tmp_path: Path
) -> None:
    out = interrupted(write, tmp_path / "acts")
    (out / "journal" / "000000.json").unlink()
    with pytest.raises(CorruptFileError, match=r"journal/000000.json.*the file is missing"):
        write()
