"""An index in parts: each document is in one shard, each search asks all of them."""

import shutil
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse

from retrieval.index.base import AbstractIndex, KeepsDocuments
from retrieval.index.exact import ExactIndex
from retrieval.index.ids import IdKind, check_ids, decode_ids, kind_of
from retrieval.index.results import SearchResults
from retrieval.index.storage import MANIFEST, SHARD, check_target
from sparsecode import io
from sparsecode._checks import check_choice, check_int

VERSION = 1
ROUTES = ("hash", "turns")


class ShardedIndex(AbstractIndex, KeepsDocuments):
    """Scatter-gather over several indexes; results are those of one index with all documents.

    The first k of all documents are among the first k of the shards, so the merge is exact where
    the shards are, equal scores by ascending id included. Shards may be of different engines, also
    clients of servers. An addition that a shard refuses is taken back from the others; one that is
    killed may be in some shards and not in others, whole in each: add the missing ids again.

    Parameters
    ----------
    shards : sequence of AbstractIndex
        With equal ``n_features`` and options of `search`, no id in two of them; they may hold
        documents. What prunes documents is the rule of each shard.
    route : {"hash", "turns"}, default="hash"
        Which shard gets a new document: that of a hash of its id, which stays the same for ever,
        or the next in turn.
    n_threads : int or None, default=None
        Shards that are searched at the same time; None means all.

    Examples
    --------
    >>> documents = scipy.sparse.csr_matrix([[1.0, 0, 2], [0, 3, 0], [2, 0, 0]])
    >>> index = ShardedIndex([ExactIndex(3), ExactIndex(3)]).add(documents, ids=["a", "b", "c"])
    >>> index.search(scipy.sparse.csr_matrix([[1.0, 0, 1]]), k=2).lists()
    [[('a', 3.0), ('c', 2.0)]]
    """

    engine = "sharded"

    def __init__(
        self,
        shards: Sequence[AbstractIndex],
        *,
        route: str = "hash",
        n_threads: int | None = None,
    ) -> None:
        self.shards = _checked(shards)
        super().__init__(self.shards[0].n_features)
        self.route = check_choice("route", route, ROUTES)
        known = len(self.shards) if n_threads is None else n_threads
        self.n_threads = check_int("n_threads", known, low=1)
        self.path: Path | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        n_features: int,
        n_shards: int,
        *,
        route: str = "hash",
        n_threads: int | None = None,
        **options: Any,
    ) -> Self:
        """Make shards of `ExactIndex` in a new folder; every addition is on disk when it returns.

        Parameters
        ----------
        path : path
            New or empty.
        n_features, n_shards : int
        route, n_threads : object
            As in the constructor.
        **options : object
            Of `ExactIndex`, such as ``values="float16"``.

        Returns
        -------
        ShardedIndex
        """
        folder, n_shards = Path(path), check_int("n_shards", n_shards, low=1)
        check_target(folder, overwrite=False)
        with io.only_writer(folder):
            _remove_shards(folder, keep=[])  # of a call that was killed
            names = _names(1, n_shards)
            shards = [ExactIndex(n_features, path=folder / name, **options) for name in names]
            index = cls(shards, route=route, n_threads=n_threads)
            io.write_json(folder / MANIFEST, index._manifest(1, names))
        index.path = folder
        return index

    @classmethod
    def open(cls, path: str | Path, *, n_threads: int | None = None, **options: Any) -> Self:
        """Open a folder that `save` or `create` wrote, with each shard in it.

        Parameters
        ----------
        path : path
        n_threads : int or None, default=None
        **options : object
            Of `open_index`, for each shard.

        Returns
        -------
        ShardedIndex
            Additions and deletions are written where those of its shards are.

        Raises
        ------
        CorruptFileError
            If a shard is missing, or a file of one is truncated or changed; it is named.
        """
        from retrieval.index.opening import open_index

        folder = Path(path)
        manifest = _read_manifest(folder)
        shards = []
        for name in manifest["shards"]:
            if not (folder / name / MANIFEST).is_file():
                raise io.CorruptFileError(
                    f"`{folder / name}` must hold shard {len(shards) + 1} of "
                    f"{len(manifest['shards'])} of `{folder}`; it is missing. "
                    "Restore it from a copy or make the index again."
                )
            shards.append(open_index(folder / name, **options))
        index = cls(shards, route=manifest["route"], n_threads=n_threads)
        if index.n_features != manifest["n_features"]:
            raise io.CorruptFileError(
                f"`{folder}` must hold shards of {manifest['n_features']} dimensions; theirs have "
                f"{index.n_features}. Restore the index from a copy or make it again."
            )
        index.path = folder
        return index

    @property
    def id_kind(self) -> IdKind | None:
        """Whether ids are "int" or "str"; None until there was a document."""
        return next((shard.id_kind for shard in self.shards if shard.id_kind is not None), None)

    def __len__(self) -> int:
        """Return the number of documents."""
        return sum(len(shard) for shard in self.shards)

    def document(self, one: int | str) -> scipy.sparse.csr_matrix:
        """Return the row that a document is scored with; see `KeepsDocuments`."""
        known = check_ids("one", [one], self.id_kind)
        for shard in self.shards:
            if shard._contains(known)[0]:
                if not isinstance(shard, KeepsDocuments):
                    raise TypeError(
                        f"`one` must be in a shard that keeps documents; {one!r} is in a "
                        f"{type(shard).__name__}."
                    )
                return shard.document(one)
        raise ValueError(f"`one` must be in the index; {one!r} is not.")

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write all shards into a folder; see `AbstractIndex.save`.

        It is the index from the moment in which all of them are there.
        """
        folder = Path(path)
        if self.path is not None and folder.resolve() == self.path.resolve():
            for shard, name in zip(self.shards, _read_manifest(folder)["shards"], strict=True):
                shard.save(folder / name)
            return
        check_target(folder, overwrite=overwrite)
        with io.only_writer(folder):
            old = _read_manifest(folder) if (folder / MANIFEST).exists() else None
            _remove_shards(folder, keep=[] if old is None else old["shards"])
            generation = 1 if old is None else old["generation"] + 1
            names = _names(generation, len(self.shards))
            for shard, name in zip(self.shards, names, strict=True):
                shard.save(folder / name)
            io.write_json(folder / MANIFEST, self._manifest(generation, names))
            _remove_shards(folder, keep=names)

    def _contains(self, ids: np.ndarray) -> np.ndarray:
        found = np.zeros(len(ids), bool)
        for shard in self.shards:
            found |= shard._contains(ids)
        return found

    def _next_id(self) -> int:
        return max(shard._next_id() for shard in self.shards)

    def _add(self, rows: scipy.sparse.csr_matrix, ids: np.ndarray) -> None:
        owners = self._owners(ids)
        done: list[tuple[AbstractIndex, list[Any]]] = []
        try:
            for place, shard in enumerate(self.shards):
                own = np.flatnonzero(owners == place)
                if len(own):
                    named = decode_ids(ids[own])
                    shard.add(rows[own], named)
                    done.append((shard, named))
        except BaseException:
            for shard, named in done:
                shard.delete(named)
            raise

    def _delete(self, ids: np.ndarray) -> None:
        for shard in self.shards:
            own = ids[shard._contains(ids)]
            if len(own):
                shard.delete(decode_ids(own))

    def _search(
        self, queries: Any, k: int, allowed: np.ndarray | None, **options: Any
    ) -> SearchResults:
        def ask(shard: AbstractIndex) -> SearchResults:
            return shard._search(queries, k, allowed, **options)

        if min(self.n_threads, len(self.shards)) == 1:
            return merged([ask(shard) for shard in self.shards], k, self.id_kind)
        return merged(list(self._pool.map(ask, self.shards)), k, self.id_kind)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(min(self.n_threads, len(self.shards)))

    def _owners(self, ids: np.ndarray) -> np.ndarray:
        """Return the place of the shard that each new id goes to."""
        if self.route == "turns":
            return (len(self) + np.arange(len(ids))) % len(self.shards)
        return hashed(ids) % np.uint64(len(self.shards))

    def _manifest(self, generation: int, names: list[str]) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "version": VERSION,
            "n_features": self.n_features,
            "route": self.route,
            "generation": generation,
            "shards": names,
        }


def merged(parts: Sequence[SearchResults], k: int, kind: IdKind | None) -> SearchResults:
    """Return the first k of results on different documents, equal scores by ascending id."""
    ids = np.concatenate([_of_kind(part.ids, kind) for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    # Strings are compared by code points, as their bytes are in each shard.
    keys = np.where(scores > -np.inf, ids, "").astype(str) if kind == "str" else ids
    order = np.lexsort((keys, -scores), axis=1)[:, :k]
    return SearchResults(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def hashed(ids: np.ndarray) -> np.ndarray:
    """Return a number for each id, uint64, the same on all machines and for ever.

    Of ints the finalizer of MurmurHash3 (public domain), of strings the CRC-32 of their bytes.

    Parameters
    ----------
    ids : ndarray of shape (n,), int64 or bytes

    Returns
    -------
    ndarray of shape (n,), uint64
    """
    if kind_of(ids) == "str":
        return np.array([zlib.crc32(one) for one in ids.tolist()], np.uint64)
    mixed = ids.astype(np.uint64)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(33))


def _of_kind(ids: np.ndarray, kind: IdKind | None) -> np.ndarray:
    """Return the ids of a shard that may have been empty always, and so without a kind."""
    return ids if kind != "str" or ids.dtype == object else np.full(ids.shape, None, object)


def _checked(shards: Sequence[AbstractIndex]) -> list[AbstractIndex]:
    listed = list(shards)
    if not listed:
        raise ValueError("`shards` must have at least one index; got none.")
    for place, shard in enumerate(listed):
        if not isinstance(shard, AbstractIndex):
            raise TypeError(f"`shards` must be indexes; got {type(shard).__name__} at {place}.")
        if any(shard is other for other in listed[:place]):
            raise ValueError(f"`shards` must be different indexes; the one at {place} is not.")
    _refuse_unequal("n_features", [shard.n_features for shard in listed])
    _refuse_unequal("id_kind", [shard.id_kind for shard in listed if shard.id_kind is not None])
    return listed


def _refuse_unequal(name: str, values: list[Any]) -> None:
    if len(set(values)) > 1:
        raise ValueError(f"`shards` must have the same {name}; got {values}.")


def _names(generation: int, n_shards: int) -> list[str]:
    return [f"shard-{generation}-{place:03d}" for place in range(n_shards)]


def _remove_shards(folder: Path, keep: list[str]) -> None:
    for old in folder.iterdir():
        if SHARD.fullmatch(old.name) and old.name not in keep:
            shutil.rmtree(old, ignore_errors=True)  # it is of no use, and does no harm either


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = io.read_json(folder / MANIFEST)
    if (manifest.get("engine"), manifest.get("version")) != (ShardedIndex.engine, VERSION):
        raise ValueError(
            f"`{folder / MANIFEST}` must be of engine 'sharded', version {VERSION}; got "
            f"{manifest.get('engine')!r}, version {manifest.get('version')!r}. Choose another "
            "folder, or open it with the sparsecode that wrote it."
        )
    for name in manifest["shards"]:
        if not SHARD.fullmatch(name):  # not even to be opened: it may be anywhere
            raise io.CorruptFileError(
                f"`{folder / MANIFEST}` must name shards in its folder; got {name!r}. "
                "Restore the index from a copy or make it again."
            )
    return manifest
