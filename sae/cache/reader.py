"""Reading a cache: shards mapped into memory, verified where they are first touched."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.cache.base import SPLITS, STORAGE_SHIFT, AbstractSource, check_fraction, ranges
from sae.cache.format import (
    DTYPES,
    Manifest,
    block_digest,
    check_file,
    files_of,
    held_out_score,
    map_activations,
    read_manifest,
    read_tensors,
    read_vocabulary,
    refuse,
    shard_path,
)
from sae.cache.mapped import map_in_a_row, pick, will_need
from sae.cache.statistics import RowStatistics
from sparsecode._checks import check_choice, near_matches

_OPEN_SHARDS = 64  # mapped at a time: each keeps a file descriptor


def open(  # noqa: A001
    path: str | Path,
    hookpoint: str | None = None,
    split: str | None = None,
    *,
    heldout_fraction: float = 0.1,
    verify: bool = True,
) -> "Cache":
    """Open an activation cache at one of its hookpoints.

    Parameters
    ----------
    path : path
        Folder that `write` made.
    hookpoint : str or None, default=None
        None takes the only one; a cache with several wants a name.
    split : {"train", "heldout"} or None, default=None
        Rows of the documents that are not held out, of those that are, or all. Whether a document
        is held out depends on its number and on nothing else, so it stays so when the cache grows.
    heldout_fraction : float, default=0.1
        Share of the documents to hold out. With 0, "train" is all rows.
    verify : bool, default=True
        Compare every block of rows with its checksum when it is first read. Sizes and headers are
        always checked.

    Returns
    -------
    Cache

    Raises
    ------
    FileNotFoundError
        If there is no finished cache.
    CorruptFileError
        If its files are not what was written.
    ValueError
        If there is no such hookpoint, or the split would be empty.
    """
    root = Path(path)
    manifest = read_manifest(root)
    names = list(manifest.hookpoints)
    if hookpoint is None and len(names) > 1:
        raise ValueError(
            f"`hookpoint` must be named, since `{root}` has several; choose one of "
            f"{', '.join(map(repr, names))}."
        )
    hookpoint = names[0] if hookpoint is None else hookpoint
    if hookpoint not in manifest.hookpoints:
        hint = near_matches(hookpoint, names) or f" It has {', '.join(map(repr, names))}."
        raise ValueError(f"`hookpoint` must be in the cache `{root}`; {hookpoint!r} is not.{hint}")
    return Cache(
        root, manifest, hookpoint, split=split, heldout_fraction=heldout_fraction, verify=verify
    )


class Cache(AbstractSource):
    """An opened activation cache; made by `open` and `write`.

    Parameters
    ----------
    path : Path
    manifest : Manifest
    hookpoint : str
    split : {"train", "heldout"} or None
    heldout_fraction : float
    verify : bool

    Attributes
    ----------
    path : Path
        Folder of the cache.
    hookpoint : str
        The hookpoint whose activations are read.
    hookpoints : list of str
        All of them.
    provenance : dict
        Model, tokenizer, and how tokens were chosen.
    n_features : int
        Width of a row.
    dtype : torch.dtype
        Stored dtype.
    split : str or None
        "train", "heldout" or None for all rows.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        hookpoint: str,
        *,
        split: str | None = None,
        heldout_fraction: float = 0.1,
        verify: bool = True,
    ) -> None:
        self.path = path
        self.hookpoint = hookpoint
        self.hookpoints = list(manifest.hookpoints)
        self.provenance = dict(manifest.provenance)
        self.n_features = int(manifest.hookpoints[hookpoint]["n_features"])
        self.dtype = DTYPES[manifest.dtype].torch
        self.split = None if split is None else check_choice("split", split, SPLITS)
        self.heldout_fraction = check_fraction(heldout_fraction, self.split)
        self._manifest = manifest
        self._verify = verify
        self._shards = _OpenShards(path, manifest, hookpoint)
        counts = [-(-shard.rows // manifest.block_rows) for shard in manifest.shards]
        self._first_blocks = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._verified = np.zeros(int(self._first_blocks[-1]), dtype=bool)
        self._threshold = self._find_threshold() if self.split else 0.0
        self._ends = np.cumsum(self._block_sizes())
        if self.n_rows == 0:
            raise ValueError(
                f"`split` needs rows of at least two documents; `{path}` has "
                f"{manifest.n_documents}, and {split!r} gets none with "
                f"heldout_fraction={heldout_fraction}. Write more texts, or train on all rows with "
                "heldout_fraction=0."
            )

    def __repr__(self) -> str:
        rest = f", split={self.split!r}" if self.split else ""
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Cache({str(self.path)!r}, hookpoint={self.hookpoint!r}{rest}: {self.n_rows} rows of "
            f"{self.n_features} {dtype})"
        )

    @cached_property
    def statistics(self) -> RowStatistics:
        """Mean and norms over all rows of the hookpoint, gathered when they were written."""
        return RowStatistics.from_json(self._manifest.hookpoints[self.hookpoint]["statistics"])

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all checksums of the hookpoint's shards, and of the split."""
        digest = hashlib.sha256(
            f"{self.split} {self.heldout_fraction if self.split else 0}".encode()
        )
        for shard in self._manifest.shards:
            digest.update(shard.activations[self.hookpoint].sha256.encode())
        return digest.hexdigest()

    @property
    def n_documents(self) -> int:
        """Number of documents in the cache, those outside of the split included."""
        return self._manifest.n_documents

    def at(self, hookpoint: str) -> "Cache":
        """Return the same rows at another hookpoint."""
        return open(
            self.path,
            hookpoint,
            self.split,
            heldout_fraction=self.heldout_fraction,
            verify=self._verify,
        )

    def with_split(self, split: str | None, heldout_fraction: float = 0.1) -> "Cache":
        """Return the cache restricted to one side of the split, or with all rows."""
        return Cache(
            self.path,
            self._manifest,
            self.hookpoint,
            split=split,
            heldout_fraction=heldout_fraction,
            verify=self._verify,
        )

    def token_ids(self, start: int, stop: int) -> Tensor:
        """Return the token id of each row of a range, int64."""
        return self._per_row(start, stop, lambda shard: shard.tokens["token_ids"])

    def positions(self, start: int, stop: int) -> Tensor:
        """Return each row's place in the context that the model saw, int64."""
        return self._per_row(start, stop, lambda shard: shard.tokens["positions"])

    def document_ids(self, start: int, stop: int) -> Tensor:
        """Return the number of each row's document in the order of the texts, int64."""
        return self._per_row(start, stop, lambda shard: shard.documents)

    @cached_property
    def vocabulary(self) -> list[str] | None:
        """Text piece of every token id, as the tokenizer spells it; None without a tokenizer."""
        record = self._manifest.vocabulary
        return None if record is None else read_vocabulary(self.path, record)

    def verify(self, progress: Callable[[int], object] | None = None) -> None:
        """Read every file of the hookpoint and compare it with its checksum.

        Parameters
        ----------
        progress : callable or None, default=None
            Called with the number of bytes after each file.

        Raises
        ------
        CorruptFileError
            If a file is missing or is not what was written; the message names it.
        """
        for name, record in files_of(self._manifest, [self.hookpoint]):
            check_file(self.path / name, record)
            if progress is not None:
                progress(record.bytes)

    def _read_block(self, block: int) -> np.ndarray:
        shard, first, last = self._place_of(block)
        opened = self._shards.get(shard)
        rows = opened.activations[first:last]
        if self._verify and not self._verified[block]:
            digest = opened.index[f"digests/{self.hookpoint}"][
                block - int(self._first_blocks[shard])
            ]
            if block_digest(rows) != digest.numpy().tobytes():
                refuse(opened.path, f"the checksum of its rows {first} to {last - 1} differs")
            self._verified[block] = True
        if self.split is None:
            return rows
        selected = opened.selected(self.split, self._threshold)[first:last]
        return rows if selected.all() else rows[selected]

    def _prepare(self, blocks: np.ndarray) -> None:
        known = np.sort(blocks[self._verified[blocks]] if self._verify else blocks)
        for block in np.setdiff1d(blocks, known, assume_unique=True):
            self._read_block(int(block))
        ends = (np.diff(known) != 1) | np.isin(known[1:], self._first_blocks)
        for run in np.split(known, np.flatnonzero(ends) + 1):
            if len(run):
                number, first, _ = self._place_of(int(run[0]))
                _, _, last = self._place_of(int(run[-1]))
                shard = self._shards.get(number)
                if self._row is None:
                    will_need(shard.activations[first:last], shard.path)
                else:  # where the pages are mapped already, if they were read before
                    rows, firsts = self._row
                    will_need(rows[firsts[number] + first : firsts[number] + last], shard.path)

    def _place(self, blocks: np.ndarray) -> np.ndarray:
        shards = np.searchsorted(self._first_blocks, blocks, side="right") - 1
        first = (blocks - self._first_blocks[shards]) * self._manifest.block_rows
        rows = np.array([shard.rows for shard in self._manifest.shards], dtype=np.int64)[shards]
        sizes = np.minimum(self._manifest.block_rows, rows - first)
        offset = shards << STORAGE_SHIFT if self._row is None else self._row[1][shards]
        places = ranges(first + offset, sizes)
        if self.split is None:
            return places
        parts = zip(shards.tolist(), first.tolist(), (first + sizes).tolist(), strict=True)
        return places[
            np.concatenate(
                [
                    self._shards.get(shard).selected(self.split, self._threshold)[start:stop]
                    for shard, start, stop in parts
                ]
            )
        ]

    def _pick(self, storage: int, rows: np.ndarray, out: np.ndarray) -> None:
        stored = self._shards.get(storage).activations if self._row is None else self._row[0]
        pick(stored, rows, out)

    @property
    def _in_one_piece(self) -> bool:
        return self._row is not None

    @cached_property
    def _row(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The rows of all shards in one array, and each shard's first one; None if they cannot be.

        Picking from one array is much faster than from each shard's own.
        """
        shards = [self._shards.get(number) for number in range(len(self._manifest.shards))]
        headers = {shard.header_bytes for shard in shards}  # which is checked on the way
        if len(headers) > 1:
            return None
        row_bytes = self.n_features * self.dtype.itemsize
        found = map_in_a_row([shard.path for shard in shards], headers.pop(), row_bytes)
        if found is None:
            return None
        rows, firsts = found
        return rows.view(DTYPES[self._manifest.dtype].bits), firsts

    def _place_of(self, block: int) -> tuple[int, int, int]:
        """Return the shard of a block, and its first row and the row behind its last one there."""
        shard = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        first = (block - int(self._first_blocks[shard])) * self._manifest.block_rows
        return (
            shard,
            first,
            min(first + self._manifest.block_rows, self._manifest.shards[shard].rows),
        )

    def _per_row(self, start: int, stop: int, values: Callable[["_Shard"], Tensor]) -> Tensor:
        self._check_range(start, stop)
        out = torch.empty(stop - start, dtype=torch.int64)
        for block, begin, end, at in self._pieces(start, stop):
            shard, first, last = self._place_of(block)
            opened = self._shards.get(shard)
            column = values(opened)[first:last]
            if self.split is not None:
                selected = opened.selected(self.split, self._threshold)[first:last]
                column = column[torch.from_numpy(selected)]
            out[at : at + end - begin] = column[begin:end]
        return out

    def _block_sizes(self) -> np.ndarray:
        step = self._manifest.block_rows
        sizes = np.zeros(len(self._verified), dtype=np.int64)
        for number, shard in enumerate(self._manifest.shards):
            blocks = slice(int(self._first_blocks[number]), int(self._first_blocks[number + 1]))
            if self.split is None:
                sizes[blocks] = step
                sizes[blocks.stop - 1] = shard.rows - step * (blocks.stop - blocks.start - 1)
            else:
                selected = self._shards.get(number).selected(self.split, self._threshold)
                sizes[blocks] = np.add.reduceat(
                    selected, np.arange(0, shard.rows, step), dtype=np.int64
                )
        return sizes

    def _find_threshold(self) -> float:
        """Return the score below which documents are held out: the fraction, or enough for one."""
        if self.heldout_fraction == 0:
            return 0.0
        lowest = min(
            float(held_out_score(self._shards.get(number).index["documents"].numpy()).min())
            for number in range(len(self._manifest.shards))
        )
        return max(self.heldout_fraction, float(np.nextafter(lowest, 1.0)))


class _Shard:
    """The files of one shard, each opened and checked when it is first asked for."""

    def __init__(self, root: Path, manifest: Manifest, hookpoint: str, number: int) -> None:
        self._record = manifest.shards[number]
        self._tokens = shard_path(root, "tokens", number)
        self._index = shard_path(root, "index", number)
        self.path = shard_path(root, manifest.hookpoints[hookpoint]["folder"], number)
        self._width = int(manifest.hookpoints[hookpoint]["n_features"])
        self._hookpoint = hookpoint
        self._dtype = manifest.dtype
        self._selected: dict[tuple[str, float], np.ndarray] = {}

    @cached_property
    def activations(self) -> np.ndarray:
        record = self._record.activations[self._hookpoint]
        return map_activations(self.path, record, self._record.rows, self._width, self._dtype)

    @property
    def header_bytes(self) -> int:
        return self._record.activations[self._hookpoint].bytes - self.activations.nbytes

    @cached_property
    def tokens(self) -> dict[str, Tensor]:
        return read_tensors(self._tokens, self._record.tokens)

    @cached_property
    def index(self) -> dict[str, Tensor]:
        return read_tensors(self._index, self._record.index)

    @cached_property
    def documents(self) -> Tensor:
        return self.index["documents"].repeat_interleave(self.index["starts"].diff())

    def selected(self, split: str, threshold: float) -> np.ndarray:
        """Return which rows are in the split."""
        found = self._selected.get((split, threshold))
        if found is None:
            scores = held_out_score(self.documents.numpy())
            found = scores < threshold if split == "heldout" else scores >= threshold
            self._selected[split, threshold] = found
        return found


class _OpenShards:
    """The shards used last, for any number of threads."""

    def __init__(self, *args: Any) -> None:
        self._shard: Callable[[int], _Shard] = partial(_Shard, *args)
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> _Shard:
        with self._lock:
            shard = self._open.pop(number, None) or self._shard(number)
            self._open[number] = shard
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
            return shard
