"""An exact index on disk: one folder, written so that a crash at any moment leaves it whole.

``index.json`` (with a checksum of its own text) holds::

    engine        "exact"
    version       1
    n_features, values, prune          as in the constructor
    id_kind       "int", "str" or null
    next_id       an int above all that were ever used
    generation    counts the writes
    next_segment  number of the next segment
    segments      a list; each maps its parts to {file, sha256, bytes}

A segment ``s000007`` has the parts below, each a NumPy file ``s000007.<part>.npy``, little-endian::

    ids        (N,)      int64, or UTF-8 bytes padded with zero bytes; ascending
    values     (nnz,)    float32, float16 or uint8
    documents  (nnz,)    int32; row of each entry, ascending in each list
    offsets    (F + 1,)  int64; list j is offsets[j]:offsets[j + 1]
    peaks      (F,)      float32; largest absolute weight of each list
    scales     (N,)      float32; with uint8 only: weight = value * scales[document]
    alive      (N,)      bool; only if documents were deleted; its file name ends in the generation

Files are never changed. New ones are written beside the old, complete and flushed; then
``index.json`` is replaced in one step; then files that it does not name are removed.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from retrieval.index.segments import Segment
from sparsecode import io
from sparsecode.ops.scoring import Postings

MANIFEST, ENGINE = "index.json", "exact"
VERSION = 1
PARTS = ("ids", "values", "documents", "offsets", "peaks", "scales", "alive")
CHUNK, SMALL = 2**22, 2**12
OWN = re.compile(r"s\d{6,}\.(ids|values|documents|offsets|peaks|scales|alive(-\d+)?)\.npy")
SHARD = re.compile(r"shard-\d+-\d{3,}")
UNFINISHED = re.compile(rf"\.({OWN.pattern}|index\.json)\.[^.]+\.tmp")


@dataclass(frozen=True, eq=False)
class StoredSegment:
    """A segment with the entry that names its files."""

    segment: Segment
    """What it holds."""

    entry: Mapping[str, Any]
    """Part -> {file, sha256, bytes}."""


def write_segment(folder: Path, number: int, segment: Segment) -> StoredSegment:
    """Write the files of a segment and return it, memory-mapped."""
    entry = {
        part: _write(folder / f"s{number:06d}.{part}.npy", array)
        for part, array in _arrays(segment).items()
    }
    return StoredSegment(read_segment(folder, entry, verify=False), entry)


def write_alive(
    folder: Path, stored: StoredSegment, segment: Segment, generation: int
) -> StoredSegment:
    """Write which documents are alive and return the stored segment with it."""
    assert segment.alive is not None
    stem = str(stored.entry["ids"]["file"]).partition(".")[0]
    written = _write(folder / f"{stem}.alive-{generation}.npy", segment.alive)
    known = replace(stored.segment, alive=segment.alive)
    return StoredSegment(known, {**stored.entry, "alive": written})


def read_segment(folder: Path, entry: Mapping[str, Any], *, verify: bool) -> Segment:
    """Return a memory-mapped segment; files that are not what was written are refused by name."""
    for part in entry.values():
        if not OWN.fullmatch(part["file"]):  # not even to be read: it may be anywhere
            fact = f"it names the file {part['file']!r}"
            raise io.CorruptFileError(_sentence(folder / MANIFEST, fact))
    parts = {part: _read(folder / entry[part]["file"], entry[part], verify) for part in entry}
    tensors = {
        part: torch.from_numpy(array)
        for part, array in parts.items()
        if part not in ("ids", "alive")
    }
    postings = Postings(
        values=tensors["values"],
        documents=tensors["documents"],
        offsets=tensors["offsets"],
        peaks=tensors["peaks"],
        n_documents=len(parts["ids"]),
        scales=tensors.get("scales"),
    )
    return Segment(parts["ids"], postings, parts.get("alive"))


def read_index(folder: Path, *, verify: bool) -> tuple[dict[str, Any], list[StoredSegment]]:
    """Return the manifest of an index and its segments."""
    manifest = read_manifest(folder)
    try:
        stored = [
            StoredSegment(read_segment(folder, entry, verify=verify), entry)
            for entry in manifest["segments"]
        ]
    except io.CorruptFileError:
        if read_manifest(folder)["generation"] == manifest["generation"]:
            raise
        return read_index(folder, verify=verify)  # a writer has just replaced those files
    return manifest, stored


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make the files that the manifest names the index, and remove all others of an index."""
    io.write_json(folder / MANIFEST, manifest)
    named = {part["file"] for entry in manifest["segments"] for part in entry.values()}
    for file in folder.iterdir():
        unfinished = UNFINISHED.fullmatch(file.name)
        if unfinished or (OWN.fullmatch(file.name) and file.name not in named):
            with suppress(OSError):  # it is of no use, and does no harm either
                file.unlink()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an exact index."""
    manifest = io.read_json(folder / MANIFEST)
    if manifest.get("engine") != ENGINE:
        raise ValueError(
            f"`{folder / MANIFEST}` must be of engine {ENGINE!r}; got {manifest.get('engine')!r}. "
            "Open it with open_index, or choose another folder."
        )
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"`{folder / MANIFEST}` must have version {VERSION}; got {manifest.get('version')!r}. "
            "Open it with the sparsecode that wrote it, and add its documents again."
        )
    return manifest


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that has something else in it, or an index that is not to be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`path` must be a folder; `{folder}` is a file.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / MANIFEST).exists():
        if not all(_is_leftover(file) for file in folder.iterdir()):
            raise ValueError(
                f"`path` must be a new or empty folder; `{folder}` has other files. Choose another."
            )
        return  # what a first write left that was killed
    check_is_index(folder)
    if not overwrite:
        raise ValueError(
            f"`path` must be a new or empty folder; `{folder}` has an index. "
            "Open it with open_index, choose another, or use overwrite=True."
        )


def _is_leftover(file: Path) -> bool:
    """Return whether a file, or a shard, is what a first write leaves that was killed."""
    if SHARD.fullmatch(file.name) and file.is_dir():
        parts = [part for part in file.iterdir() if part.name not in (MANIFEST, "engine")]
        return all(_is_leftover(part) for part in parts)
    return bool(OWN.fullmatch(file.name) or UNFINISHED.fullmatch(file.name))


def check_is_index(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index of any engine; refuse a folder that only looks like one."""
    try:
        manifest = io.read_json(folder / MANIFEST)
    except io.CorruptFileError:
        manifest = {}
    if "engine" not in manifest:
        raise ValueError(
            f"`path` must be a new or empty folder, or have an index; `{folder / MANIFEST}` is "
            "damaged or of something else. Choose another folder."
        )
    return manifest


def replace_index(folder: Path, new: Path, others: Collection[str] = ()) -> None:
    """Put a folder in the place of an index, unless there is anything else beside the index.

    Parameters
    ----------
    folder : path
        May be missing.
    new : path
        In the same parent.
    others : collection of str
        Names in `folder` that are part of the index beside its manifest and segments.
    """
    if not folder.exists():
        new.rename(folder)
        return
    known = {MANIFEST, *others}
    for file in folder.iterdir():
        if not (file.name in known or OWN.fullmatch(file.name) or UNFINISHED.fullmatch(file.name)):
            raise ValueError(
                f"`path` must have nothing but an index to be replaced; `{folder}` has "
                f"{file.name!r}. Move that, or choose another folder."
            )
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".old"))
    folder.replace(old)  # a directory may replace an empty one
    new.rename(folder)
    shutil.rmtree(old)


def _arrays(segment: Segment) -> dict[str, np.ndarray]:
    postings = segment.postings
    arrays = {
        "ids": segment.ids,
        "values": postings.values.numpy(),
        "documents": postings.documents.numpy(),
        "offsets": postings.offsets.numpy(),
        "peaks": postings.peaks.numpy(),
    }
    if postings.scales is not None:
        arrays["scales"] = postings.scales.numpy()
    if segment.alive is not None:
        arrays["alive"] = segment.alive
    return arrays


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self.n_bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.n_bytes += len(data)
        return self.file.write(data)


def _write(path: Path, array: np.ndarray) -> dict[str, Any]:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    with io.atomic_file(path) as file:
        hashed = _Hashed(file)
        np.lib.format.write_array(hashed, np.ascontiguousarray(little), allow_pickle=False)  # type: ignore[arg-type]
    return {"file": path.name, "sha256": hashed.sha256.hexdigest(), "bytes": hashed.n_bytes}


def _read(path: Path, expected: Mapping[str, Any], verify: bool) -> np.ndarray:
    if not path.is_file():
        raise io.CorruptFileError(_sentence(path, "it is missing"))
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise io.CorruptFileError(_sentence(path, f"it has {size} of {expected['bytes']} bytes"))
    if verify and sha256_of(path) != expected["sha256"]:
        raise io.CorruptFileError(_sentence(path, "its SHA-256 differs from the recorded one"))
    if size < SMALL:  # also arrays of no entries, which cannot be mapped
        return np.load(path, allow_pickle=False)
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sentence(path: Path, fact: str) -> str:
    return (
        f"`{path}` must hold exactly what was written; {fact}. "
        "Restore the index from a copy or make it again."
    )
