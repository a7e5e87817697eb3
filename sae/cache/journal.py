"""The journal of a write under way: what a killed writer finds again."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from sae.cache.format import JOURNAL, MANIFEST, VOCABULARY, read_manifest, refuse
from sparsecode.io import one_sentence, only_writer, read_json, write_json

_SESSION = "session.json"
_ENTRY = re.compile(r"\d{6,}\.json")
_SHARD = re.compile(r"\d{6,}\.safetensors")
_HALF = re.compile(r"\.(\d{6,}|manifest|vocabulary|session)\.(json|safetensors)\.\w+\.tmp")


class Journal:
    """The folder ``journal/`` of a cache, which has one writer while it is open.

    Nothing is ever deleted that a writer of caches did not put there, and leaving without a shard
    leaves nothing.

    Parameters
    ----------
    root : path
        The cache. Its folder is made if need be, so an unwritable place is refused here, and so is
        a folder that holds anything but a cache, or has another writer.
    """

    def __init__(self, root: Path) -> None:
        self._folder = root / JOURNAL
        self._root = root
        self._open = ExitStack()

    def __enter__(self) -> "Journal":
        with ExitStack() as stack:
            stack.enter_context(only_writer(self._root))
            self._refuse_foreign()
            with one_sentence(self._folder):
                self._folder.mkdir(exist_ok=True)
            self._sweep()
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            if not self._entries():  # there is nothing to continue
                self._discard_shards()
                self.clear()

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

    def clear(self) -> None:
        """Delete the journal; what says whose entries they are goes last."""
        for path in self._entries():
            path.unlink()
        (self._folder / _SESSION).unlink(missing_ok=True)
        _remove_empty(self._folder)

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:06d}.json"

    def _entries(self) -> list[Path]:
        """Return the files of the finished shards in their order."""
        found = [name for name in _names(self._folder) if _ENTRY.fullmatch(name)]
        return [self._folder / name for name in sorted(found, key=lambda name: int(name[:-5]))]

    def _refuse_foreign(self) -> None:
        """Refuse a folder that is neither empty nor a cache, and a journal of something else."""
        names, inside = _names(self._root), _names(self._folder)
        foreign = [
            f"{JOURNAL}/{name}"
            for name in sorted(inside - {_SESSION})
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
