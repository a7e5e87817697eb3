"""The journal of a write under way: what a killed writer finds again."""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from sae.cache.format import JOURNAL, MANIFEST, VOCABULARY, read_manifest, refuse
from sparsecode.io import one_sentence, read_json, write_json

_SESSION = "session.json"
_LOCK = "lock"
_ENTRY = re.compile(r"\d{6,}\.json")
_SHARD = re.compile(r"\d{6,}\.safetensors")
_HALF = re.compile(r"\.(\d{6,}|manifest|vocabulary|session)\.(json|safetensors)\.\w+\.tmp")


class Journal:
    """The folder ``journal/`` of a cache, locked against other writers while it is open.

    The lock is the operating system's: it ends with the process that holds it, however that ends.
    Nothing is ever deleted that a writer of caches did not put there, and leaving without a shard
    leaves nothing.

    Parameters
    ----------
    root : path
        The cache. Its folder is made if need be, so an unwritable place is refused here, and so is
        a folder that holds anything but a cache.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / JOURNAL
        self._root = root
        self._made: list[Path] = []

    def __enter__(self) -> "Journal":
        with one_sentence(self._folder / _LOCK):
            if not (self._folder / _LOCK).exists():
                with suppress(FileNotFoundError):  # another writer may be coming or going
                    self._refuse_foreign()  # before anything is made there
            self._lock = self._locked()
        try:
            self._refuse_foreign()
        except BaseException:
            self._lock.close()
            raise
        self._sweep()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if _is_at(self._lock, self._folder / _LOCK) and not self._entries():
                self._discard_shards()
                self.clear()  # there is nothing to continue
                for folder in self._made:
                    _remove_empty(folder)

    def session(self) -> dict[str, Any] | None:
        """Return what `begin` recorded, or None if no write is under way."""
        path = self._folder / _SESSION
        return read_json(path) if path.exists() else None

    def begin(self, session: Mapping[str, Any]) -> None:
        """Record the call under way; forget what another one left."""
        for path in self._entries():
            path.unlink()
        self._discard_shards()
        write_json(self._folder / _SESSION, session)

    def record(self, shard: int, entry: Mapping[str, Any]) -> None:
        """Record a finished shard; from then on it counts."""
        write_json(self._path(shard), entry)

    def entries(self, first: int) -> Iterator[dict[str, Any]]:
        """Yield the entries of the shards from number `first` on."""
        for expected, path in enumerate(self._entries(), first):
            if int(path.stem) != expected:
                refuse(self._path(expected), "the file is missing")
            yield read_json(path)

    def clear(self, *, keep_lock: bool = False) -> None:
        """Delete the journal; what says whose entries they are goes last."""
        for path in self._entries():
            path.unlink()
        (self._folder / _SESSION).unlink(missing_ok=True)
        if not keep_lock:
            (self._folder / _LOCK).unlink(missing_ok=True)
            _remove_empty(self._folder)

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:06d}.json"

    def _entries(self) -> list[Path]:
        """Return the files of the finished shards in their order."""
        found = [path for path in self._folder.iterdir() if _ENTRY.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.stem))

    def _locked(self) -> BinaryIO:
        """Return the lock file, made if need be, with the lock on it."""
        while True:
            lock = self._opened()
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise ValueError(
                    f"`out` must not be written by two processes at once; `{self._root}` is being "
                    "written. Wait for the other one, or choose another folder."
                ) from None
            except OSError:  # a file system without locks
                return lock
            if _is_at(lock, self._folder / _LOCK):
                return lock
            lock.close()  # of a writer that has just ended, and deleted the file

    def _opened(self) -> BinaryIO:
        """Return the lock file, made if need be with the folders that a writer may be removing."""
        for _ in range(100):
            with suppress(FileNotFoundError, FileExistsError):
                return self._open()
        return self._open()

    def _open(self) -> BinaryIO:
        missing = [folder for folder in (self._root, *self._root.parents) if not folder.exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._made += missing
        return os.fdopen(os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644), "rb")

    def _refuse_foreign(self) -> None:
        """Refuse a folder that is neither empty nor a cache, and a journal of something else."""
        names, inside = _names(self._root), _names(self._folder)
        foreign = [
            f"{JOURNAL}/{name}"
            for name in sorted(inside - {_LOCK, _SESSION})
            if not _HALF.fullmatch(name) and not (_SESSION in inside and _ENTRY.fullmatch(name))
        ]
        if MANIFEST not in names and _SESSION not in inside:
            foreign += sorted(names - {JOURNAL})
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise ValueError(
                f"`out` must be a new or an empty folder, or hold a cache; `{self._root}` holds "
                f"{foreign[0]!r}{more}. Choose another folder."
            )
        if MANIFEST in names:
            read_manifest(self._root)
        self.session()

    def _sweep(self) -> None:
        """Delete the unfinished files of a writer that was killed."""
        for folder in [self._root, self._folder, *self._shard_folders()]:
            for path in folder.glob(".*.tmp"):
                if _HALF.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _discard_shards(self) -> None:
        """Delete the files of a shard that was never finished, where no other one is."""
        if (self._root / MANIFEST).exists():
            return
        for folder in self._shard_folders():
            for path in folder.iterdir():
                if _SHARD.fullmatch(path.name):
                    path.unlink()
            _remove_empty(folder)
        (self._root / VOCABULARY).unlink(missing_ok=True)
        _remove_empty(self._root / "activations")

    def _shard_folders(self) -> list[Path]:
        folders = [self._root / "tokens", self._root / "index", *self._root.glob("activations/*")]
        return [folder for folder in folders if folder.is_dir()]


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Return whether `path` still names an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _names(folder: Path) -> set[str]:
    """Return what is in a folder; nothing if there is none."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()


def _remove_empty(folder: Path) -> None:
    """Remove a folder unless there is something in it."""
    with suppress(OSError):
        folder.rmdir()
