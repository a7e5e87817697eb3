"""Which folders of a repository or of a disk hold an autoencoder, and the one that is meant."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from sae.compat.checkpoint import WEIGHTS, Checkpoint
from sae.compat.recognition import formats_of
from sparsecode import hub
from sparsecode._checks import near_matches

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
NEEDED = (".json", *WEIGHTS)


def is_repository(folder: str | Path) -> bool:
    """Whether a name can only mean a repository on the hub."""
    return (
        isinstance(folder, str) and bool(REPOSITORY.fullmatch(folder)) and not Path(folder).exists()
    )


def located(folder: str | Path, hookpoint: str | None, revision: str | None) -> Path:
    """Return where an autoencoder lies on this machine, fetched from the hub if need be.

    Parameters
    ----------
    folder : path or str
        A folder, a file, or ``organization/name`` on the hub.
    hookpoint : str or None
        The folder in it; None takes the only one.
    revision : str or None
        Branch, tag or commit on the hub.
    """
    if is_repository(folder):
        names = hub.list_files(str(folder), revision=revision)
        return _fetched(str(folder), names, _chosen(str(folder), names, hookpoint), revision)
    if revision is not None:
        raise ValueError(
            f"`revision` must be None for what is not on the hub; got {revision!r} with `{folder}`."
        )
    if hookpoint is None:
        return Path(folder)
    names = _files_under(Path(folder))
    return Path(folder) / _chosen(str(folder), names, hookpoint)


def located_many(folder: str | Path, pattern: str, revision: str | None) -> dict[str, Path]:
    """Return where each autoencoder whose folder matches a pattern lies, in natural order.

    Parameters
    ----------
    folder : path or str
    pattern : str
        As in file names: ``layers.[0-3].*``; ``*`` matches any characters.
    revision : str or None
    """
    remote = is_repository(folder)
    names = hub.list_files(str(folder), revision=revision) if remote else _files_under(Path(folder))
    known = holding(names)
    chosen = sorted((name for name in known if fnmatchcase(name, pattern)), key=_natural)
    if not chosen:
        raise FileNotFoundError(
            f"`pattern` must match a folder of `{folder}` with an autoencoder; {pattern!r} matches "
            f"none of {_listed(known)}."
        )
    if not remote:
        return {name: Path(folder) / name for name in chosen}
    return {name: _fetched(str(folder), names, name, revision) for name in chosen}


def holding(names: Iterable[str], *, doubtful: bool = False) -> list[str]:
    """Return the folders that hold an autoencoder; "" is the whole.

    Parameters
    ----------
    names : iterable of str
        Paths of files.
    doubtful : bool, default=False
        Whether a single file of torch counts beside autoencoders that are told by their names; it
        may be OpenAI's, but trainings write states of that kind, too.

    Examples
    --------
    >>> holding(["README.md", "h.3/cfg.json", "h.3/sae.safetensors"])
    ['h.3']
    """
    inside: dict[str, set[str]] = {}
    for name in names:
        path = PurePosixPath(name)
        inside.setdefault(_text(path.parent), set()).add(path.name)
        if path.parent.name == "checkpoints":
            inside.setdefault(_text(path.parent.parent), set()).add(f"checkpoints/{path.name}")
    formats = {name: _formats(files) for name, files in inside.items()}
    found = [name for name, known in formats.items() if known]
    sure = [name for name in found if formats[name] != ["openai"]]
    return sorted(found if doubtful or not sure else sure, key=_natural)


def _formats(files: set[str]) -> list[str]:
    """Return the formats that the files of a folder may be of."""
    ours = "config.json" in files and any(re.match(r"weights-.*safetensors", f) for f in files)
    return ["ours"] if ours else formats_of(Checkpoint(Path(), frozenset(files)))


def _chosen(where: str, names: list[str], hookpoint: str | None) -> str:
    """Return the folder, or the file with the weights, that is meant."""
    known = holding(names)
    if hookpoint is None:
        if "" in known:
            return ""
        if len(known) == 1:
            return known[0]
        raise FileNotFoundError(
            f"`hookpoint` must name one of the folders of `{where}` that hold an autoencoder: "
            f"{_listed(known)}."
        )
    wanted = hookpoint.strip("/")
    if wanted in holding(names, doubtful=True) or (wanted in names and wanted.endswith(WEIGHTS)):
        return wanted
    raise FileNotFoundError(
        f"`hookpoint` must name a folder of `{where}` with an autoencoder; {hookpoint!r} is none "
        f"of {_listed(known)}.{near_matches(wanted, known)}"
    )


def _fetched(repo: str, names: list[str], folder: str, revision: str | None) -> Path:
    """Fetch the files of one autoencoder and return its folder, or its file."""
    if folder in names:
        beside = _text(PurePosixPath(folder).parent)
        wanted = [folder, *(n for n in names if _within(n, beside) and n.endswith(".json"))]
    else:
        wanted = [n for n in names if _within(n, folder) and n.endswith(NEEDED)]
    return hub.download(repo, wanted, revision=revision) / folder


def _within(name: str, folder: str) -> bool:
    """Whether a file lies in a folder, or in its folder ``checkpoints``."""
    parent = PurePosixPath(name).parent
    return _text(parent) == folder or (
        parent.name == "checkpoints" and _text(parent.parent) == folder
    )


def _text(path: PurePosixPath) -> str:
    return "" if path == PurePosixPath() else path.as_posix()


def _files_under(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"`{folder}` must be a folder; there is none of that name.")
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _listed(known: list[str]) -> str:
    shown = ", ".join(name or "the whole" for name in known[:12]) or "no folder"
    return f"{shown}, ..." if len(known) > 12 else shown


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts ``h.9`` before ``h.10``."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
