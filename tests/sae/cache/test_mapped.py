"""A hint to the system changes nothing but the time."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from sae.cache import mapped
from sae.cache.mapped import map_in_a_row, pick, will_need


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 3), slice(1, 9000), slice(8999, 9000)])
def test_rows_are_as_before(tmp_path: Path, rows: slice, told: bool) -> None:
    values = np.arange(9000 * 5, dtype=np.float32).reshape(9000, 5)
    np.save(tmp_path / "rows.npy", values)
    there = np.load(tmp_path / "rows.npy", mmap_mode="r")
    will_need(there[rows], tmp_path / "rows.npy" if told else None)
    np.testing.assert_array_equal(there, values)


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such request")
def test_what_is_in_memory_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    system = mapped._system()
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros(2**20))
    rows = np.load(path, mmap_mode="r")
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    monkeypatch.setattr(system, "madvise", lambda *_: asked.append(1))
    will_need(rows, path)
    before = len(asked)
    rows.sum()
    will_need(rows, path)
    assert len(asked) == before
    will_need(rows)
    assert len(asked) == before + 1


def test_memory_that_is_no_file_is_left_alone() -> None:
    values = np.arange(10.0)
    will_need(values[3:])
    np.testing.assert_array_equal(values, np.arange(10.0))


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such mapping")
@pytest.mark.parametrize("width", [1, 3, 96, 769, 5000])
def test_files_in_a_row_are_one_array(tmp_path: Path, width: int) -> None:
    random = np.random.default_rng(0)
    files = [random.integers(0, 256, (n, width), dtype=np.uint8) for n in (1, 700, 33)]
    paths = [tmp_path / str(number) for number in range(3)]
    for path, rows in zip(paths, files, strict=True):
        path.write_bytes(b"h" * 64 + rows.tobytes())
    found = map_in_a_row(paths, 64, width)
    assert found is not None
    rows, firsts = found
    for first, expected in zip(firsts, files, strict=True):
        np.testing.assert_array_equal(rows[first : first + len(expected)], expected)
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such mapping")
def test_files_are_mapped_as_long_as_a_view_lives(tmp_path: Path) -> None:
    (tmp_path / "one of them").write_bytes(bytes(range(100)))
    found = map_in_a_row([tmp_path / "one of them"], 0, 10)
    assert found is not None
    view = found[0][3:5].view(np.uint16)
    del found
    assert "one of them" in Path("/proc/self/maps").read_text()
    assert view.view(np.uint8).tolist() == [list(range(30, 40)), list(range(40, 50))]
    del view
    assert "one of them" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("n_rows", [0, 1, 511, 512, 513, 3000])
@pytest.mark.parametrize("width", [1, 7])
@pytest.mark.parametrize("near", [0, 2**24])
def test_rows_are_picked(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, width: int, near: int
) -> None:
    monkeypatch.setattr(mapped, "_NEAR", near)
    random = np.random.default_rng(0)
    rows = random.integers(0, 2**16, (1000, width), dtype=np.uint16)
    places = random.integers(0, 1000, n_rows)
    out = np.full((n_rows + 2, width), 7, dtype=np.uint16)
    pick(rows, places, out[1:-1])
    np.testing.assert_array_equal(out[1:-1], rows[places])
    assert (out[[0, -1]] == 7).all()
