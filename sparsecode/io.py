"""Files: atomic writes, checksummed JSON and safetensors, and nothing from disk is ever executed.

Every file appears under its final name complete or not at all: it is written beside its
destination, flushed to the disk and renamed. JSON files carry a checksum of their own bytes and
name the SHA-256 of the tensor files that belong to them, so a flipped or missing byte is refused.
"""

import errno
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from safetensors.torch import load as _parse_safetensors
from safetensors.torch import save as _to_safetensors
from torch import Tensor

CHECKSUM = "checksum"
CONFIG = "config.json"
WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


class CorruptFileError(ValueError):
    """A file exists but its bytes are not what was written."""


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that appears as `path` only if the block ends without an exception.

    Parameters
    ----------
    path : path
        Final name. Its folder is created when missing.

    Raises
    ------
    OSError
        With one sentence, when the folder is read-only or the disk is full; `path` is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise _one_sentence(path, error) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextmanager
def one_sentence(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` of the block into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise _one_sentence(Path(path), error) from None


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Let one process at a time write to `folder`, which is made when missing.

    The system gives the lock back when its process ends, however it ends. A folder that the block
    leaves empty is removed if the block made it. Without ``fcntl`` (Windows) there is no lock.

    Raises
    ------
    OSError
        If another writer is in the folder, or it cannot be made.
    """
    folder = Path(folder)
    made: list[Path] = []
    handle = _locked(folder, made)
    try:
        yield
    finally:
        for path in sorted(set(made), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # something was written
                path.rmdir()
        if handle is not None:
            os.close(handle)  # last: until then nobody else can have begun in the folder


def write_bytes(path: str | Path, data: bytes) -> str:
    """Write `data` atomically and return its SHA-256 as hexadecimal text."""
    with atomic_file(path) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a checksum of its own text as the last key."""
    if CHECKSUM in value:
        raise ValueError(
            f"`value` must not hold the reserved key {CHECKSUM!r}; got it. Rename that key."
        )
    write_bytes(path, _sealed(dict(value)).encode())


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object that `write_json` wrote; without the checksum key.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CorruptFileError
        If the text is not byte for byte what was written.
    """
    path = Path(path)
    raw = _read(path)
    try:
        value = json.loads(raw.decode())
        found = value.pop(CHECKSUM)
    except (
        UnicodeDecodeError,
        json.JSONDecodeError,
        KeyError,
        AttributeError,
        TypeError,
        RecursionError,
    ):
        raise _corrupt(path, "it is not a complete JSON file with a checksum") from None
    if not isinstance(found, str) or _sealed(value).encode() != raw:
        raise _corrupt(path, "its checksum does not match its text")
    return value


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as one safetensors file, atomically; return the SHA-256 of the file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_bytes(path, _to_safetensors(plain))


def load_tensors(
    path: str | Path, *, sha256: str | None = None, device: str | torch.device = "cpu"
) -> dict[str, Tensor]:
    """Read a safetensors file.

    Parameters
    ----------
    path : path
    sha256 : str or None, default=None
        Expected SHA-256 of the file; None skips the comparison.
    device : device, default="cpu"

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CorruptFileError
        If the SHA-256 differs or the file is not a safetensors file.
    """
    path = Path(path)
    raw = _read(path)
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise _corrupt(path, "its SHA-256 differs from the recorded one")
    try:
        tensors = _parse_safetensors(raw)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise _corrupt(path, f"it is not a complete safetensors file ({error})") from None
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def write_model(
    folder: str | Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write the ``config.json`` and the weights of a model, which replace those that are there.

    The weights carry their digest in their name, so that a crash between the two files leaves the
    old pair whole; the file that is no longer named is removed last.

    Parameters
    ----------
    folder : path
        Made when missing.
    config : mapping
        Ready for JSON; the name and the SHA-256 of the weights are added as ``weights``.
    tensors : mapping of str to Tensor
    """
    folder = Path(folder)
    stale = set(folder.glob("weights-*.safetensors")) if folder.is_dir() else set()
    temporary = folder / "weights-new.safetensors"
    digest = save_tensors(temporary, tensors)
    weights = folder / f"weights-{digest[:16]}.safetensors"
    temporary.replace(weights)
    write_json(folder / CONFIG, {**config, "weights": {"file": weights.name, "sha256": digest}})
    for old in stale - {weights}:
        if WEIGHTS.fullmatch(old.name):
            old.unlink(missing_ok=True)


def weights_file(folder: str | Path, config: Mapping[str, Any]) -> tuple[Path, str]:
    """Return where the weights of a model are, and their SHA-256.

    Parameters
    ----------
    folder : path
    config : mapping
        What `write_model` wrote.

    Raises
    ------
    CorruptFileError
        If they are not named as `write_model` names them, in this folder.
    """
    stored = config.get("weights")
    stored = stored if isinstance(stored, dict) else {}
    name, digest = stored.get("file"), stored.get("sha256")
    if not isinstance(name, str) or not WEIGHTS.fullmatch(name) or not isinstance(digest, str):
        raise _corrupt(Path(folder) / CONFIG, "it names no weights of its own folder")
    return Path(folder) / name, digest


def refuse_foreign(folder: str | Path, form: str, what: str) -> None:
    """Refuse a folder whose ``config.json`` is of something else.

    Parameters
    ----------
    folder : path
    form : str
        The ``format`` that ours has.
    what : str
        What ours holds, as in "an encoder".

    Raises
    ------
    FileExistsError
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        return
    try:
        ours = json.loads(path.read_text()).get("format") == form
    except (ValueError, AttributeError, RecursionError):
        ours = False
    if not ours:
        raise FileExistsError(
            f"`{folder}` must be empty or hold {what} of ours; it holds another {CONFIG}. "
            "Choose another folder."
        )


def digest_of_files(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder and in those in it, by relative path.

    Parameters
    ----------
    folder : path
    """
    folder, found = Path(folder), {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return found


def _locked(folder: Path, made: list[Path]) -> int | None:
    """Return the folder, opened with a lock on it, or None where there are no locks.

    Folders that had to be made are added to `made`.
    """
    while True:
        with one_sentence(folder):
            handle = _opened_folder(folder, made)
        if handle is None:
            return None
        try:
            _lock(handle, folder)
        except BaseException:
            os.close(handle)
            raise
        if _is_at(handle, folder):
            return handle
        os.close(handle)  # of a writer that has just ended, and removed the folder


def _opened_folder(folder: Path, made: list[Path], attempts: int = 100) -> int | None:
    """Return the folder opened, made if need be though another writer may be removing it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = None if sys.platform == "win32" else os.open(folder, os.O_RDONLY)
    except (FileNotFoundError, FileExistsError):
        if not attempts:
            raise
        return _opened_folder(folder, made, attempts - 1)
    made += missing
    return handle


def _lock(handle: int, folder: Path) -> None:
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            errno.EWOULDBLOCK,
            f"`{folder}` must have one writer at a time; another one is at work in it. "
            "Wait for it, or choose another folder.",
        ) from None
    except OSError:  # some network file systems have no locks
        pass


def _is_at(handle: int, path: Path) -> bool:
    """Return whether `path` still names an open folder."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"`{path}` must exist; there is no such file.") from None
    except IsADirectoryError:
        raise ValueError(f"`{path}` must be a file; got a folder.") from None


def _sealed(value: dict[str, Any]) -> str:
    body = json.dumps(value, indent=1, ensure_ascii=True, allow_nan=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    return (
        json.dumps({**value, CHECKSUM: digest}, indent=1, ensure_ascii=True, allow_nan=True) + "\n"
    )


def _corrupt(path: Path, fact: str) -> CorruptFileError:
    return CorruptFileError(
        f"`{path}` must hold exactly what was written; {fact}. "
        "Restore it from a copy or make it again."
    )


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot sync a folder; the rename itself is done
        pass
    finally:
        os.close(handle)


def _one_sentence(path: Path, error: OSError) -> OSError:
    facts = {
        errno.ENOSPC: ("the disk is full", "Free some space and run it again."),
        errno.EDQUOT: ("the disk quota is used up", "Free some space and run it again."),
        errno.EACCES: ("permission is denied", "Choose a folder that you may write to."),
        errno.EPERM: ("permission is denied", "Choose a folder that you may write to."),
        errno.EROFS: ("the file system is read-only", "Choose a folder that you may write to."),
        errno.ENOTDIR: ("a part of the path is a file", "Choose another folder."),
        errno.EEXIST: ("a part of the path is a file", "Choose another folder."),
    }
    fact, advice = facts.get(
        error.errno or 0, (error.strerror or str(error), "Nothing was changed there.")
    )
    return type(error)(error.errno, f"`{path}` must be writable; {fact}. {advice}")
