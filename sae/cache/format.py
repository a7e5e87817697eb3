"""The activation cache on disk, version 1: the description, and the only code that knows the bytes.

A cache is one folder. A row is one token; rows are numbered from 0 and cut into shards of
consecutive rows; shard n has the same rows in each of its files::

    manifest.json                                what the cache holds; written last, atomically
    vocabulary.json                              text piece of every token id, if known
    tokens/000000.safetensors                    token_ids, positions
    index/000000.safetensors                     documents, starts, and a digest of every block
    activations/<hookpoint>/000000.safetensors   activations
    journal/                                     while a write is under way or was interrupted

**JSON files** are UTF-8, indented by one space, and end with the key ``checksum``: the SHA-256 of
the same text without that key (`sparsecode.io.write_json`).

**manifest.json** holds ``format`` ("sparsecode.activations"), ``version`` (1), ``dtype``
("float32", "float16" or "bfloat16"), ``n_rows``, ``n_documents``, ``block_rows``, ``provenance``
(model, tokenizer and how tokens were chosen), ``vocabulary`` (file record or null), ``hookpoints``
(name -> ``folder``, ``n_features``, ``statistics``), ``sessions`` (one entry for each call of
`write`: its options, its number of shards, rows and documents, and the digest of its texts), and
``shards``: for each shard ``rows`` and the file records ``tokens``, ``index`` and ``activations``
(hookpoint -> record). A file record is ``{"bytes": size, "sha256": hex}``. A folder without a
manifest is not a cache; files that the manifest does not name are not part of it.

**activations** files are safetensors with one tensor ``activations`` of shape (rows, n_features)
and the cache's dtype. Their header is the compact JSON text that `activation_header` writes, padded
with spaces so that the data start at a multiple of 64 bytes; nothing follows the data. Hence the
reader knows every header byte in advance, maps the file and uses the rows where they lie.

**tokens** files hold ``token_ids`` (rows,) int32 and ``positions`` (rows,) int32: the place of the
token in the context that the model saw, counted from 0, special tokens included. Within a document
a position that does not rise starts a new context.

**index** files hold ``documents`` (D,) int64, rising: the documents that have rows in this shard;
``starts`` (D + 1,) int64: the first row of each within the shard, and the number of rows; and for
each hookpoint ``digests/<hookpoint>`` (B, 32) uint8: the digest of each block. A block is
``block_rows`` consecutive rows of one shard (the last one of a shard may be shorter), counted from
the shard's first row; its digest covers the data bytes only. Blocks are what a reader verifies and
shuffles, so that neither needs a whole shard. Every block is verified when it is first read, so
the digest must cost no more than reading: the block's bytes, filled up with zeros to a multiple of
8,192, are taken as little-endian 64-bit words ``u(0), u(1), ...`` in lines of 1,024; the digest is
the SHA-256 of the number of bytes before filling, of the sum of ``u(i) * (v(i) | 1)`` modulo 2**64,
where v is the splitmix64 generator's first output for the state i, and of the XOR of all lines,
each number as 8 bytes, little-endian. It tells accidents, not forgeries; the SHA-256 in the
manifest tells both. Documents are numbered over all sessions in the order
in which their texts were given; one without rows keeps its number.

**statistics** of a hookpoint are over all rows as stored, in float64: ``rows``, ``sum`` (n_features
values), ``norm_sum``, ``squared_norm_sum``, ``norm_max`` and ``norm_histogram`` (bin -> rows),
where a row of norm s is in bin ``floor(32 * log2(s)) + 1280``, clipped to [0, 2560).

**held-out documents**: document i is held out if ``u(i) < fraction``, where u is the splitmix64
generator's first output for the state i, divided by 2**64. Should no document fall below the
fraction, the one with the smallest u is held out.

**shards** hold whole contexts, and at most the ``shard_rows`` rows of the call that wrote them.

**journal/** holds ``session.json`` (the options of the call under way and the number of sessions
before it), and ``000000.json`` and so on, one for each finished shard: its entry for the manifest,
the statistics up to and including it, and the place in the texts where the next shard starts. A
shard counts once its journal entry exists; the files are written, flushed and renamed before that.
Finishing writes the manifest and then deletes the journal; a journal whose session the manifest
already names is left over and may be deleted.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import check_choice
from sparsecode.io import (
    CorruptFileError,
    atomic_file,
    load_tensors,
    read_json,
    save_tensors,
    write_json,
)

FORMAT = "sparsecode.activations"
VERSION = 1
MANIFEST = "manifest.json"
VOCABULARY = "vocabulary.json"
JOURNAL = "journal"
BLOCK_BYTES = 2**20
_ALIGNMENT = 64
_LINE = 8192  # bytes


@dataclass(frozen=True)
class StoredDtype:
    """One dtype of the format: its name in safetensors, in torch, and its bits in numpy."""

    safetensors: str
    torch: torch.dtype
    bits: Any


DTYPES = {
    "float32": StoredDtype("F32", torch.float32, np.float32),
    "float16": StoredDtype("F16", torch.float16, np.float16),
    "bfloat16": StoredDtype("BF16", torch.bfloat16, np.uint16),
}


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardRecord:
    """The files of one shard; ``activations`` by hookpoint."""

    rows: int
    tokens: FileRecord
    index: FileRecord
    activations: Mapping[str, FileRecord]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ShardRecord":
        """Rebuild a record from its JSON form."""
        files = {name: FileRecord(**record) for name, record in value["activations"].items()}
        return cls(
            value["rows"], FileRecord(**value["tokens"]), FileRecord(**value["index"]), files
        )


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json; see the module's description."""

    dtype: str
    block_rows: int
    provenance: Mapping[str, Any]
    vocabulary: FileRecord | None
    hookpoints: Mapping[str, Mapping[str, Any]]
    n_rows: int = 0
    n_documents: int = 0
    sessions: tuple[Mapping[str, Any], ...] = ()
    shards: tuple[ShardRecord, ...] = field(default=(), repr=False)


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest of the cache at `root`, atomically."""
    write_json(root / MANIFEST, {"format": FORMAT, "version": VERSION, **asdict(manifest)})


def read_manifest(root: Path) -> Manifest:
    """Read the manifest of the cache at `root`.

    Raises
    ------
    FileNotFoundError
        If there is no cache, or only an unfinished one; the message says which.
    CorruptFileError
        If the manifest is not what was written or is of another format or version.
    """
    path = root / MANIFEST
    if not path.exists():
        if (root / JOURNAL).is_dir():
            raise FileNotFoundError(
                f"`{root}` must be a finished cache; its writing was interrupted. Make the same "
                "call of `sae.cache.write` again: it continues where it stopped."
            )
        raise FileNotFoundError(
            f"`{root}` must be a cache made by `sae.cache.write`; it has no {MANIFEST}."
        )
    value = read_json(path)
    if value.pop("format", None) != FORMAT:
        raise CorruptFileError(f"`{path}` must be of the format {FORMAT!r}; it is not.")
    version = value.pop("version", None)
    if version != VERSION:
        raise CorruptFileError(
            f"`{path}` must be of version {VERSION}; got {version!r}. Use the version of "
            "sparsecode that wrote it, or write the cache again."
        )
    try:
        vocabulary = value.pop("vocabulary")
        return Manifest(
            vocabulary=None if vocabulary is None else FileRecord(**vocabulary),
            sessions=tuple(value.pop("sessions")),
            shards=tuple(ShardRecord.from_json(shard) for shard in value.pop("shards")),
            **value,
        )
    except (KeyError, TypeError, AttributeError):
        raise CorruptFileError(
            f"`{path}` must have all keys of {FORMAT} {VERSION}; some differ."
        ) from None


def shard_path(root: Path, folder: str, shard: int) -> Path:
    """Return the file of one shard below "tokens", "index" or a hookpoint's folder."""
    return root / folder / f"{shard:06d}.safetensors"


def hookpoint_folders(hookpoints: list[str]) -> dict[str, str]:
    """Return the folder of each hookpoint: its name, with characters unsafe in a path replaced."""
    folders: dict[str, str] = {}
    for name in hookpoints:
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
        while f"activations/{safe}" in folders.values():
            safe += "_"
        folders[name] = f"activations/{safe}"
    return folders


def stored_dtype(dtype: str | torch.dtype) -> str:
    """Return the name of a dtype that the format can hold."""
    return check_choice("dtype", str(dtype).removeprefix("torch."), tuple(DTYPES))


def rows_per_block(n_features: int, dtype: str) -> int:
    """Return the largest power of two of rows that fits in a block of `BLOCK_BYTES`; at least 1."""
    rows = BLOCK_BYTES // (n_features * np.dtype(DTYPES[dtype].bits).itemsize)
    return 1 << max(0, rows.bit_length() - 1)


def to_bits(rows: Tensor) -> np.ndarray:
    """Return a CPU tensor as the numpy array that is stored; bfloat16 as its bits."""
    rows = rows.contiguous()
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


def from_bits(rows: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Return a writable array of stored rows as a tensor that shares its memory."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor


def activation_header(rows: int, n_features: int, dtype: str) -> bytes:
    """Return all bytes of an activations file that stand before its data."""
    size = rows * n_features * np.dtype(DTYPES[dtype].bits).itemsize
    tensor = {
        "dtype": DTYPES[dtype].safetensors,
        "shape": [rows, n_features],
        "data_offsets": [0, size],
    }
    text = json.dumps({"activations": tensor}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_activations(
    path: Path, rows: np.ndarray, dtype: str, block_rows: int
) -> tuple[FileRecord, Tensor]:
    """Write one activations file; return its record and the digest of each block, (B, 32) uint8."""
    header = activation_header(rows.shape[0], rows.shape[1], dtype)
    whole, digests = hashlib.sha256(header), bytearray()
    with atomic_file(path) as file:
        file.write(header)
        for start in range(0, len(rows), block_rows):
            data = block_bytes(rows[start : start + block_rows])
            file.write(data)
            whole.update(data)
            digests += block_digest(rows[start : start + block_rows])
    record = FileRecord(len(header) + rows.nbytes, whole.hexdigest())
    return record, torch.frombuffer(digests, dtype=torch.uint8).reshape(-1, 32)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write a tokens or index file; return its record."""
    sha256 = save_tensors(path, tensors)
    return FileRecord(path.stat().st_size, sha256)


def read_tensors(path: Path, record: FileRecord) -> dict[str, Tensor]:
    """Read a tokens or index file, compared with its record."""
    check_size(path, record)
    return load_tensors(path, sha256=record.sha256)


def write_vocabulary(root: Path, pieces: list[str]) -> FileRecord:
    """Write the text piece of every token id; return the file's record."""
    path = root / VOCABULARY
    write_json(path, {"pieces": pieces})
    return FileRecord(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def read_vocabulary(root: Path, record: FileRecord) -> list[str]:
    """Read the text piece of every token id."""
    check_file(root / VOCABULARY, record)
    return read_json(root / VOCABULARY)["pieces"]


def block_bytes(rows: np.ndarray) -> memoryview:
    """Return the bytes of C-contiguous rows without copying them."""
    flat: Any = rows.reshape(-1).view(np.uint8)
    return memoryview(flat)


def block_digest(rows: np.ndarray) -> bytes:
    """Return the digest of a block, which must be C-contiguous; see the module's description."""
    data = np.frombuffer(block_bytes(rows), dtype=np.uint8)
    whole = len(data) - len(data) % _LINE
    words = data[:whole].view("<u8")
    weights = _weights(-(-len(data) // _LINE) * (_LINE // 8))
    total = int(np.dot(words, weights[: len(words)]))
    line = np.bitwise_xor.reduce(words.reshape(-1, _LINE // 8), axis=0)
    if whole < len(data):
        rest = np.zeros(_LINE, dtype=np.uint8)
        rest[: len(data) - whole] = data[whole:]
        total += int(np.dot(rest.view("<u8"), weights[len(words) :]))
        line ^= rest.view("<u8")
    numbers = b"".join((n % 2**64).to_bytes(8, "little") for n in (len(data), total))
    return hashlib.sha256(numbers + line.astype("<u8").tobytes()).digest()


@lru_cache(maxsize=4)
def _weights(n_words: int) -> np.ndarray:
    return _splitmix64(np.arange(n_words)) | np.uint64(1)


def map_activations(
    path: Path, record: FileRecord, rows: int, n_features: int, dtype: str
) -> np.ndarray:
    """Map an activations file; the array is read-only and of the dtype's bits.

    Size and header are compared with what they must be; the data are not read.

    Raises
    ------
    CorruptFileError
        If the file is missing, or its size or header differs.
    """
    check_size(path, record)
    header = activation_header(rows, n_features, dtype)
    file = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    data = file[len(header) :]
    expected = rows * n_features * np.dtype(DTYPES[dtype].bits).itemsize
    if file[: len(header)].tobytes() != header or data.nbytes != expected:
        refuse(path, "its header differs from what was written")
    return data.view(DTYPES[dtype].bits).reshape(rows, n_features)


def check_size(path: Path, record: FileRecord) -> None:
    """Refuse a file that is missing or whose size is not the recorded one."""
    try:
        found = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        refuse(path, "the file is missing")
    if found != record.bytes:
        refuse(path, f"it has {found} bytes instead of {record.bytes}")


def check_file(path: Path, record: FileRecord) -> None:
    """Refuse a file whose size or SHA-256 is not the recorded one."""
    check_size(path, record)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != record.sha256:
        refuse(path, "its SHA-256 differs from the recorded one")


def refuse(path: Path, fact: str) -> NoReturn:
    """Raise the one sentence about a file that is not what was written."""
    raise CorruptFileError(
        f"`{path}` must hold exactly what was written; {fact}. Restore it from a copy or write the "
        "cache again."
    )


def files_of(manifest: Manifest, hookpoints: Iterable[str]) -> Iterator[tuple[str, FileRecord]]:
    """Yield the relative path and the record of every file that the given hookpoints need."""
    if manifest.vocabulary is not None:
        yield VOCABULARY, manifest.vocabulary
    for number, shard in enumerate(manifest.shards):
        folders = {"tokens": shard.tokens, "index": shard.index}
        folders |= {
            manifest.hookpoints[name]["folder"]: shard.activations[name] for name in hookpoints
        }
        for folder, record in folders.items():
            yield str(shard_path(Path(), folder, number)), record


def held_out_score(documents: np.ndarray) -> np.ndarray:
    """Return u(i) in [0, 1) of each document: splitmix64 of the state i, as a fraction."""
    return (_splitmix64(documents) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _splitmix64(states: np.ndarray) -> np.ndarray:
    """Return the first output of the splitmix64 generator for each state."""
    with np.errstate(over="ignore"):
        z = states.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
