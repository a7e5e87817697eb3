"""The journal of a write under way: locked, swept, and refused where it is damaged."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sae.cache import Cache, CorruptFileError
from sae.cache.journal import Journal


def test_two_writers_at_once_are_refused(write: Callable[..., Cache], tmp_path: Path) -> None:
    with Journal(tmp_path / "acts"), pytest.raises(OSError, match="must have one writer at a time"):
        write()
    assert write().n_rows > 0


def test_an_empty_journal_that_a_killed_writer_left_is_taken_over(
    write: Callable[..., Cache], tmp_path: Path
) -> None:
    (tmp_path / "acts" / "journal").mkdir(parents=True)
    assert write().n_rows > 0
    assert not (tmp_path / "acts" / "journal").exists()


def test_only_one_of_many_writers_gets_in(tmp_path: Path) -> None:
    """Each makes the folder anew, and removes it when it ends."""
    inside, together, entered, other = threading.Semaphore(1), [], [], []

    def enter() -> None:
        for _ in range(60):
            try:
                with Journal(tmp_path / "acts"):
                    alone = inside.acquire(blocking=False)
                    (entered if alone else together).append(1)
                    time.sleep(1e-4)
                    if alone:
                        inside.release()
            except OSError as error:
                if "must have one writer at a time" not in str(error):
                    other.append(error)

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entered
    assert not together
    assert not other
    assert not any((tmp_path / "acts").glob("*/*"))


FOREIGN = [
    "journal/2024-05-01.md",
    "journal/000000.json",
    "journal/00000.json",
    "journal/notes/a.txt",
    "notes.txt",
    ".hidden",
    ".file.tmp",
    "tokens/000000.safetensors",
    "vocabulary.json",
]


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("options", [{}, {"append": True}, {"resume": False}], ids=str)
def test_a_folder_of_something_else_is_refused_and_left_alone(
    write: Callable[..., Cache], tmp_path: Path, name: str, options: dict[str, bool]
) -> None:
    path = tmp_path / "acts" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"`out` must .*`.*acts` (holds|does)"):
        write(**options)
    assert path.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["journal/000000.json", "journal/mine.txt", "manifest.json"])
def test_nothing_foreign_is_deleted_beside_a_cache(write: Callable[..., Cache], name: str) -> None:
    path = write().path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match=rf"{name}' and|{name}'\. Choose|{name}` must"):
        write(append=True)
    assert path.read_text() == "mine"


def test_files_beside_a_cache_stay(write: Callable[..., Cache]) -> None:
    cache = write()
    for name in ("README.md", ".mine.tmp", "tokens/.000000.txt.tmp"):
        (cache.path / name).write_text("mine")
    assert write(append=True, max_tokens=9).n_rows == cache.n_rows + 9
    for name in ("README.md", ".mine.tmp", "tokens/.000000.txt.tmp"):
        assert (cache.path / name).read_text() == "mine"


def test_the_leavings_of_a_killed_writer_are_swept(interrupted: Path) -> None:
    for folder in ("", "journal", "tokens", "index", "activations/encoder.layer.1"):
        (interrupted / folder / ".000009.safetensors.abc.tmp").write_bytes(b"half a file")
    with Journal(interrupted) as journal:
        assert not list(interrupted.rglob("*.tmp"))
        assert len(list(journal.entries(0))) == 2
        assert journal.session() is not None


def test_a_journal_without_shards_leaves_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.begin({"sessions": 0})
        assert journal.session() == {"sessions": 0}
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["000000.json", "000001.json", "session.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_damaged_journal_is_refused_by_name(
    write: Callable[..., Cache], interrupted: Path, name: str, damage: str
) -> None:
    path = interrupted / "journal" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(CorruptFileError, match=f"journal/{name}"):
        write()


def test_a_missing_journal_entry_is_refused_by_name(
    write: Callable[..., Cache], interrupted: Path
) -> None:
    (interrupted / "journal" / "000000.json").unlink()
    with pytest.raises(CorruptFileError, match=r"journal/000000.json.*the file is missing"):
        write()


def test_the_cache_can_be_imported_where_the_system_has_no_file_locks() -> None:
    script = "import sys; sys.modules['fcntl'] = None; import sae.cache"
    subprocess.run([sys.executable, "-c", script], check=True)
