"""Encoded rows on disk: written part by part, so that a job that was killed goes on where it was.

A folder holds ``encoded.json``, written first, with what is encoded and how; and for each part of
``rows_per_part`` rows ``part-000000.safetensors`` (``values`` float32, ``indices`` int32, ``crow``
int64) and ``part-000000.json`` with its ids and the SHA-256 of the other file. A part exists once
its JSON file does and the other file is what that says; any other is encoded again.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from retrieval.index.base import check_rows
from sparsecode import io
from sparsecode._checks import check_int

MANIFEST = "encoded.json"
VERSION = 1


@dataclass(frozen=True)
class Encoded:
    """A folder of encoded rows that is complete."""

    folder: Path
    """Where it is."""

    n_rows: int
    """Number of rows."""

    n_features: int
    """Number of dimensions."""

    n_parts: int
    """Number of parts."""

    def parts(self) -> Iterator[tuple[list[str], scipy.sparse.csr_matrix]]:
        """Yield ids and rows of each part; a file that is not what was written is refused."""
        for number in range(self.n_parts):
            yield _read_part(self.folder, number, self.n_features)

    def all(self) -> tuple[list[str], scipy.sparse.csr_matrix]:
        """Return all ids and rows."""
        parts = list(self.parts())
        if not parts:
            return [], scipy.sparse.csr_matrix((0, self.n_features), dtype=np.float32)
        ids = [one for known, _ in parts for one in known]
        rows: Any = scipy.sparse.vstack([part for _, part in parts], format="csr")
        return ids, rows


def write(
    encode: Callable[[Any], Any],
    inputs: Any,
    ids: Sequence[Any],
    folder: str | Path,
    *,
    n_features: int,
    settings: str = "",
    encoder: str = "",
    rows_per_part: int = 1024,
    progress: Callable[[int], object] | None = None,
) -> Encoded:
    """Encode inputs into a folder, going on where an earlier call was interrupted.

    Parameters
    ----------
    encode : callable
        Takes a slice of `inputs`, returns a SciPy sparse matrix.
    inputs : sequence of str, or array of shape (N, d)
    ids : sequence of N ids
    folder : path
        New or empty, or that of an interrupted or finished call with the same arguments.
    n_features : int
        Columns of what `encode` returns.
    settings : str, default=""
        Whatever tells this job from others; a folder of other settings is refused.
    encoder : str, default=""
        What changes when the encoder does, such as `digest`; a folder of another one is refused.
    rows_per_part : int, default=1024
    progress : callable or None, default=None
        Called with the number of rows after each part.

    Returns
    -------
    Encoded

    Raises
    ------
    ValueError
        If the folder has something else in it.
    """
    folder, names = Path(folder), [str(one) for one in ids]
    check_int("rows_per_part", rows_per_part, low=1)
    if len(names) != len(inputs):
        raise ValueError(
            f"`ids` must have one id for each of {len(inputs)} inputs; got {len(names)}."
        )
    manifest = {
        "version": VERSION,
        "n_rows": len(names),
        "n_features": check_int("n_features", n_features, low=1),
        "rows_per_part": rows_per_part,
        "settings": settings,
        "encoder": encoder,
        "inputs": _fingerprint(names, inputs),
    }
    with io.only_writer(folder):
        _begin(folder, manifest)
        for number, start in enumerate(range(0, len(names), rows_per_part)):
            own = slice(start, start + rows_per_part)
            if not _is_whole(folder, number):
                rows = check_rows("encoded rows", encode(inputs[own]), n_features)
                _write_part(folder, number, rows, names[own])
            if progress is not None:
                progress(len(names[own]))
    return open_encoded(folder)


def digest(encoder: str | Path) -> str:
    """Return what changes when a byte of an encoder's folder does.

    Parameters
    ----------
    encoder : path
        Folder of a saved encoder.

    Returns
    -------
    str
    """
    files = "".join(f"{name} {one}\n" for name, one in io.digest_of_files(encoder).items())
    return hashlib.sha256(files.encode(errors="surrogatepass")).hexdigest()


def open_encoded(folder: str | Path) -> Encoded:
    """Open a folder of encoded rows.

    Parameters
    ----------
    folder : path

    Returns
    -------
    Encoded

    Raises
    ------
    ValueError
        If the job that wrote it was interrupted.
    """
    folder = Path(folder)
    manifest = io.read_json(folder / MANIFEST)
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"`{folder / MANIFEST}` must have version {VERSION}; got {manifest.get('version')!r}."
        )
    n_rows, per_part = manifest["n_rows"], manifest["rows_per_part"]
    n_parts = -(-n_rows // per_part)
    endings = ("json", "safetensors")
    done = sum(
        all(_part(folder, number, ending).exists() for ending in endings)
        for number in range(n_parts)
    )
    if done < n_parts:
        raise ValueError(
            f"`{folder}` must be complete; it has {done} of {n_parts} parts. "
            "Run the command that wrote it again: it goes on where it was."
        )
    return Encoded(folder, n_rows, manifest["n_features"], n_parts)


def _begin(folder: Path, manifest: dict[str, Any]) -> None:
    path = folder / MANIFEST
    if path.exists():
        old = io.read_json(path)
        differ = [key for key in manifest if old.get(key) != manifest[key]]
        if differ == ["encoder"]:
            raise ValueError(
                f"`{folder}` must go on with the encoder that it was begun with; the encoder has "
                "changed since, and rows of two encoders do not compare. Choose another folder."
            )
        if differ:
            raise ValueError(
                f"`{folder}` must be a new folder, or hold the same job; {', '.join(differ)} "
                "differ from those of the job in it. Choose another folder."
            )
        return
    if any(file.suffix != ".tmp" for file in folder.iterdir()):
        raise ValueError(
            f"`{folder}` must be a new or empty folder; it has other files. Choose another."
        )
    io.write_json(path, manifest)


def _write_part(folder: Path, number: int, rows: Any, ids: list[str]) -> None:
    tensors = {
        "values": torch.from_numpy(rows.data),
        "indices": torch.from_numpy(rows.indices.astype(np.int32)),
        "crow": torch.from_numpy(rows.indptr.astype(np.int64)),
    }
    sha256 = io.save_tensors(_part(folder, number, "safetensors"), tensors)
    io.write_json(_part(folder, number, "json"), {"ids": ids, "sha256": sha256})


def _is_whole(folder: Path, number: int) -> bool:
    """Return whether a part was written, and its rows are still those."""
    try:
        record = io.read_json(_part(folder, number, "json"))
        with _part(folder, number, "safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == record.get("sha256")
    except (FileNotFoundError, io.CorruptFileError):
        return False


def _read_part(folder: Path, number: int, width: int) -> tuple[list[str], scipy.sparse.csr_matrix]:
    record = io.read_json(_part(folder, number, "json"))
    path = _part(folder, number, "safetensors")
    tensors = io.load_tensors(path, sha256=record["sha256"])
    parts = tuple(tensors[name].numpy() for name in ("values", "indices", "crow"))
    return record["ids"], scipy.sparse.csr_matrix(parts, shape=(len(record["ids"]), width))


def _part(folder: Path, number: int, ending: str) -> Path:
    return folder / f"part-{number:06d}.{ending}"


def _fingerprint(ids: list[str], inputs: Any) -> str:
    digest = hashlib.sha256("\n".join(ids).encode(errors="surrogatepass"))
    if len(ids) and isinstance(inputs[0], str):
        for text in inputs:
            digest.update(text.encode(errors="surrogatepass") + b"\0")
    else:
        for start in range(0, len(ids), 4096):
            digest.update(np.ascontiguousarray(inputs[start : start + 4096]).tobytes())
    return digest.hexdigest()
