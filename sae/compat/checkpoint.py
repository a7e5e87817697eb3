"""A checkpoint as a set of files: a folder, or one file with the JSON files beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sae.compat.weights import read_object

WEIGHTS = (".safetensors", ".pt", ".pth", ".npz")


@dataclass(frozen=True)
class Checkpoint:
    """The files that a format is recognized by.

    Parameters
    ----------
    folder : Path
    names : frozenset of str
        Its files, and those of its folder ``checkpoints``, as paths relative to it.
    given : mapping, default={}
        What the caller says of what the files leave out.
    """

    folder: Path
    names: frozenset[str]
    given: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def at(cls, path: Path, given: Mapping[str, Any]) -> "Checkpoint":
        """Return the files of a folder, or one file and the JSON files beside it."""
        if path.is_file():
            beside = {found.name for found in path.parent.glob("*.json")}
            if path.suffix == ".json":
                return cls.at(path.parent, given)
            return cls(path.parent, frozenset({path.name, *beside}), given)
        inner = (path / "checkpoints").glob("*")
        found = (file for file in (*path.glob("*"), *inner) if file.is_file())
        return cls(path, frozenset(file.relative_to(path).as_posix() for file in found), given)

    def json(self, name: str) -> dict[str, Any]:
        """Return one of its JSON objects; empty where there is no such file."""
        return read_object(self.folder / name) if name in self.names else {}

    def ending(self, *suffixes: str) -> list[str]:
        """Return its files with one of these endings, without those of its folders."""
        return sorted(n for n in self.names if n.endswith(suffixes) and "/" not in n)

    def path(self, name: str) -> Path:
        """Return where one of its files lies."""
        return self.folder / name
