"""One call of `write` as it stands on disk: its shards, its journal, and how it ends."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sae.cache.format import (
    FileRecord,
    Manifest,
    ShardRecord,
    shard_path,
    to_bits,
    write_activations,
    write_manifest,
    write_tensors,
    write_vocabulary,
)
from sae.cache.forward import Rows, joined
from sae.cache.journal import Journal
from sae.cache.statistics import RowStatistics
from sae.cache.tokens import Place


class Session:
    """Collects rows, writes a shard when enough have come, and the manifest at the end.

    Parameters
    ----------
    root : path
    journal : Journal
        With the entries of the same call, if it was interrupted.
    base : Manifest
        The cache before this call.
    call : mapping
        What the manifest says about this call. Its option "shard_rows" is the most rows of a
        shard; a pool must not have more.
    pieces : list of str or None
        The vocabulary.

    Attributes
    ----------
    rows : int
        Rows that this call has added so far.
    place : Place
        Where in the texts the next shard starts.
    """

    def __init__(
        self,
        root: Path,
        journal: Journal,
        base: Manifest,
        call: Mapping[str, Any],
        pieces: list[str] | None,
    ) -> None:
        self._root = root
        self._journal = journal
        self._base = base
        self._call = call
        self._pieces = pieces
        self.shard_rows = call["options"]["shard_rows"]
        self._shards = list(base.shards)
        self._statistics = {
            name: RowStatistics.from_json(hookpoint["statistics"])
            for name, hookpoint in base.hookpoints.items()
        }
        self._pending: list[Rows] = []
        self.rows = 0
        self.place = Place()
        self._restore()

    @property
    def next_row(self) -> int:
        """Number that the next row will have in the cache."""
        return self._base.n_rows + self.rows

    def add(self, rows: Rows, after: Place) -> None:
        """Take the rows of a pool; `after` is where in the texts the pool ends."""
        pending = sum(map(len, self._pending))
        if pending and pending + len(rows) > self.shard_rows:
            self._write_shard()
        if len(rows):
            self._pending.append(rows)
            self.rows += len(rows)
        self.place = after

    def finish(self, place: Place) -> None:
        """Write what is left and the manifest, and delete the journal."""
        self.place = place
        if self.rows == 0:
            raise ValueError(
                f"`texts` must hold at least one token to cache; got {place.documents} documents "
                "with none. Empty texts and special tokens give no rows."
            )
        if self._pending:
            self._write_shard()
        base = self._base
        if base.vocabulary is None and self._pieces is not None:
            base = replace(base, vocabulary=write_vocabulary(self._root, self._pieces))
        call = {
            **self._call,
            "shards": len(self._shards) - len(base.shards),
            "rows": self.rows,
            "documents": place.documents,
            "texts_sha256": place.digest.hex(),
        }
        hookpoints = {
            name: {**hookpoint, "statistics": self._statistics[name].to_json()}
            for name, hookpoint in base.hookpoints.items()
        }
        write_manifest(
            self._root,
            replace(
                base,
                hookpoints=hookpoints,
                n_rows=base.n_rows + self.rows,
                n_documents=base.n_documents + place.documents,
                sessions=(*base.sessions, call),
                shards=tuple(self._shards),
            ),
        )
        self._journal.clear()

    def _restore(self) -> None:
        entry = None
        for entry in self._journal.entries(len(self._shards)):
            self._shards.append(ShardRecord.from_json(entry["shard"]))
        if entry is not None:
            self.rows = entry["rows"]
            place = entry["place"]
            self.place = Place(
                place["documents"], place["contexts"], bytes.fromhex(place["digest"])
            )
            self._statistics = {
                name: RowStatistics.from_json(value) for name, value in entry["statistics"].items()
            }

    def _write_shard(self) -> None:
        """Write the pending rows; `place` is where they end."""
        rows, number = joined(self._pending), len(self._shards)
        self._pending = []
        documents, counts = rows.documents.unique_consecutive(return_counts=True)
        index = {
            "documents": documents + self._base.n_documents,
            "starts": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        }
        files: dict[str, FileRecord] = {}
        for name, values in rows.activations.items():
            self._statistics[name].update(values)
            path = shard_path(self._root, self._base.hookpoints[name]["folder"], number)
            files[name], index[f"digests/{name}"] = write_activations(
                path, to_bits(values), self._base.dtype, self._base.block_rows
            )
        shard = ShardRecord(
            len(rows),
            write_tensors(
                shard_path(self._root, "tokens", number),
                {"token_ids": rows.token_ids, "positions": rows.positions},
            ),
            write_tensors(shard_path(self._root, "index", number), index),
            files,
        )
        self._shards.append(shard)
        self._journal.record(
            number,
            {
                "shard": asdict(shard),
                "rows": self.rows,
                "place": {
                    "documents": self.place.documents,
                    "contexts": self.place.contexts,
                    "digest": self.place.digest.hex(),
                },
                "statistics": {name: value.to_json() for name, value in self._statistics.items()},
            },
        )
