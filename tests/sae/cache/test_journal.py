"""The journal of a write under way: locked, swept, and refused where it is damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sae.cache import Cache, CorruptFileError
from sae.cache.journal import Journal


def test_two_writers_at_once_are_refused(write: Callable[..., Cache], tmp_path: Path) -> None:
    with Journal(tmp_path / "acts"), pytest.raises(ValueError, match="by two processes at once"):
        write()
    assert write().n_rows > 0


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
