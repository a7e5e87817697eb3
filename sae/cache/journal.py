"""The journal of a write under way: what a killed writer finds again."""

import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sae.cache.format import JOURNAL, refuse
from sparsecode.io import atomic_file, read_json, write_json

_SESSION = "session.json"
_LOCK = "lock"


class Journal:
    """The folder ``journal/`` of a cache, locked against other writers while it is open.

    Parameters
    ----------
    root : path
        The cache. Its folder is made if need be, so an unwritable place is refused here.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / JOURNAL
        self._root = root

    def __enter__(self) -> "Journal":
        lock = self._folder / _LOCK
        if not lock.exists():
            with atomic_file(lock):
                pass
        self._lock = lock.open("rb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(
                f"`out` must not be written by two processes at once; `{self._root}` is being "
                "written. Wait for the other one, or choose another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        self._sweep()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._folder.exists() and not any(self._folder.glob("[0-9]*.json")):
                self.clear()  # there is nothing to continue

    def session(self) -> dict[str, Any] | None:
        """Return what `begin` recorded, or None if no write is under way."""
        path = self._folder / _SESSION
        return read_json(path) if path.exists() else None

    def begin(self, session: Mapping[str, Any]) -> None:
        """Record the call under way; forget any entries of another one."""
        self.clear(keep_lock=True)
        write_json(self._folder / _SESSION, session)

    def record(self, shard: int, entry: Mapping[str, Any]) -> None:
        """Record a finished shard; from then on it counts."""
        write_json(self._path(shard), entry)

    def entries(self, first: int) -> Iterator[dict[str, Any]]:
        """Yield the entries of the shards from number `first` on."""
        numbers = sorted(int(path.stem) for path in self._folder.glob("[0-9]*.json"))
        for expected, number in enumerate(numbers, first):
            if number != expected:
                refuse(self._path(expected), "the file is missing")
            yield read_json(self._path(number))

    def clear(self, *, keep_lock: bool = False) -> None:
        """Delete the journal; what says whose entries they are goes last."""
        for path in self._folder.glob("[0-9]*.json"):
            path.unlink()
        (self._folder / _SESSION).unlink(missing_ok=True)
        if not keep_lock:
            (self._folder / _LOCK).unlink(missing_ok=True)
            self._folder.rmdir()

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:06d}.json"

    def _sweep(self) -> None:
        """Delete the unfinished files of a writer that was killed."""
        folders = [self._root, self._folder, self._root / "tokens", self._root / "index"]
        for folder in [*folders, *self._root.glob("activations/*")]:
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)
