"""What indexes over other engines share: names of documents, ties, and their folder."""

import shutil
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse

from retrieval.index import storage
from retrieval.index.base import AbstractIndex
from retrieval.index.ids import IdKind, check_ids, decode_ids, kind_of
from retrieval.index.limits import Limits
from retrieval.index.pruning import Pruning
from retrieval.index.results import SearchResults, from_lists
from sparsecode import io

VERSION = 1


class AbstractEngineIndex(AbstractIndex):
    """An index whose entries are held by another engine, under numbers of our own.

    Documents get the numbers 0, 1, 2, ... in the order in which they come; ids stay here. A row
    without an entry is known here only: no query finds it. Where the last result of a query ties
    with others, more are asked for, so that ties go by id as in every index.

    Parameters
    ----------
    n_features : int
        Number of dimensions.
    prune : Pruning or None, default=None
        Applied to documents as they are added.
    """

    engine: str
    limits: Limits
    search_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, n_features: int, *, prune: Pruning | None = None) -> None:
        super().__init__(n_features, prune=prune)
        self.limits.check_width(self.n_features)
        self._number_of: dict[Any, int] = {}
        self._id_of: dict[int, Any] = {}
        self._kind: IdKind | None = None
        self._unused = self._next_number = 0
        self._orphans: list[int] = []  # of additions that failed

    @abstractmethod
    def _upsert(self, numbers: Sequence[int], rows: scipy.sparse.csr_matrix) -> None:
        """Hold rows, each with an entry, under numbers that are new."""

    @abstractmethod
    def _remove(self, numbers: Sequence[int]) -> None:
        """Forget what is held under numbers."""

    @abstractmethod
    def _find(
        self,
        dims: np.ndarray,
        weights: np.ndarray,
        limit: int,
        allowed: Sequence[int] | None,
        **options: Any,
    ) -> list[tuple[int, float]]:
        """Return up to `limit` best numbers and scores for one query that has entries."""

    @abstractmethod
    def _dump(self, folder: Path) -> None:
        """Write what the engine holds to an existing folder."""

    @abstractmethod
    def _load(self, folder: Path) -> None:
        """Take over what `_dump` wrote; later changes must not reach the folder."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor that JSON can hold, without `prune`."""

    @property
    def id_kind(self) -> IdKind | None:
        """Whether ids are "int" or "str"; None until there was a document."""
        return self._kind

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._number_of)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the index to a folder as it is now; see `AbstractIndex.save`."""
        folder = Path(path)
        storage.check_target(folder, overwrite=overwrite)
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
        try:
            held = beside / "engine"
            held.mkdir()
            self._drop_orphans()
            self._dump(held)
            files = {
                str(file.relative_to(beside)): storage.sha256_of(file)
                for file in sorted(held.rglob("*"))
                if file.is_file()
            }
            io.write_json(beside / storage.MANIFEST, {**self._state(), "files": files})
            beside.chmod(0o755)
            storage.replace_index(folder, beside, others=["engine"])
        finally:
            if beside.exists():
                shutil.rmtree(beside)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True, **changes: Any) -> Self:
        """Open what `save` wrote; the folder itself is left as it is.

        Parameters
        ----------
        path : path
        verify : bool, default=True
            Compare the SHA-256 of every file.
        **changes : object
            Arguments of the constructor that differ from the saved ones, such as the address of a
            server that has moved, or a password, which is never saved.

        Returns
        -------
        AbstractEngineIndex
        """
        folder = Path(path)
        state = io.read_json(folder / storage.MANIFEST)
        for name, digest in state["files"].items():
            if Path(name).parts[:1] != ("engine",) or ".." in Path(name).parts:
                raise io.CorruptFileError(
                    f"`{folder / storage.MANIFEST}` must name files below engine/; got {name!r}. "
                    "Restore the index from a copy or make it again."
                )
            if not (folder / name).is_file() or (
                verify and storage.sha256_of(folder / name) != digest
            ):
                raise io.CorruptFileError(
                    f"`{folder / name}` must hold exactly what was written; it does not. "
                    "Restore the index from a copy or make it again."
                )
        rules = state["prune"]
        arguments = {**state["config"], **changes}
        index = cls(**arguments, prune=None if rules is None else Pruning(**rules))
        index._id_of = dict(state["ids"])
        index._number_of = {one: number for number, one in index._id_of.items()}
        index._kind, index._unused = state["id_kind"], state["next_id"]
        index._next_number = state["next_number"]
        index._load(folder / "engine")
        return index

    def _state(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "version": VERSION,
            "config": self.config(),
            "prune": None if self.prune is None else self.prune.config(),
            "id_kind": self._kind,
            "next_id": self._unused,
            "next_number": self._next_number,
            "ids": list(self._id_of.items()),
        }

    def _contains(self, ids: np.ndarray) -> np.ndarray:
        return np.array([one in self._number_of for one in decode_ids(ids)], bool)

    def _next_id(self) -> int:
        return self._unused

    def _add(self, rows: scipy.sparse.csr_matrix, ids: np.ndarray) -> None:
        matrix: Any = rows
        self.limits.check_rows("documents", matrix)
        known = decode_ids(ids)
        numbers = list(range(self._next_number, self._next_number + len(known)))
        held = np.flatnonzero(np.diff(matrix.indptr))
        self._next_number += len(known)  # numbers of a failed call are not used again
        self._drop_orphans()
        if len(held):
            self._orphans = [numbers[row] for row in held]
            self._upsert(self._orphans, matrix[held])
            self._orphans = []
        self._number_of |= dict(zip(known, numbers, strict=True))
        self._id_of |= dict(zip(numbers, known, strict=True))
        self._kind = kind_of(ids)
        if self._kind == "int":
            self._unused = max(self._unused, max(known) + 1)

    def _drop_orphans(self) -> None:
        """Remove what an addition held before it failed."""
        if self._orphans:
            self._remove(self._orphans)
            self._orphans = []

    def _delete(self, ids: np.ndarray) -> None:
        known = decode_ids(ids)
        self._remove([self._number_of[one] for one in known])
        for one in known:
            del self._id_of[self._number_of.pop(one)]

    def _search(
        self, queries: scipy.sparse.csr_matrix, k: int, allowed: np.ndarray | None, **options: Any
    ) -> SearchResults:
        rows: Any = queries
        self._check_options(options)
        self._drop_orphans()
        self.limits.check_rows("queries", rows)
        self.limits.check_k(k)
        numbers = None
        if allowed is not None:
            known = decode_ids(check_ids("filter", decode_ids(allowed)))
            numbers = [self._number_of[one] for one in known if one in self._number_of]
        found = []
        for row in range(rows.shape[0]):
            own = slice(rows.indptr[row], rows.indptr[row + 1])
            dims, weights = rows.indices[own], rows.data[own]
            nothing = not len(dims) or not len(self) or (numbers is not None and not numbers)
            pairs = [] if nothing else self._with_ties(dims, weights, k, numbers, options)
            found.append([(self._id_of[number], score) for number, score in pairs])
        return from_lists(found, k, text_ids=self._kind == "str")

    def _check_options(self, options: dict[str, Any]) -> None:
        unknown = sorted(set(options) - set(self.search_options))
        if unknown:
            raise TypeError(
                f"`search` of {type(self).__name__} has the options {list(self.search_options)}; "
                f"got {unknown[0]!r}."
            )

    def _with_ties(
        self,
        dims: np.ndarray,
        weights: np.ndarray,
        k: int,
        allowed: Sequence[int] | None,
        options: dict[str, Any],
    ) -> list[tuple[int, float]]:
        """Return the best k and all that tie with the last of them."""
        most = len(self) if self.limits.k is None else min(len(self), self.limits.k + 1)
        limit = min(k + 1, most)
        while True:
            pairs = self._find(dims, weights, limit, allowed, **options)
            ordered = sorted((score for _, score in pairs), reverse=True)
            if len(pairs) < limit or limit >= most or ordered[k - 1] > ordered[-1]:
                return pairs
            limit = min(4 * limit, most)


def temporary_folder(owner: AbstractIndex) -> Path:
    """Return a new folder that goes when its owner does."""
    folder = tempfile.mkdtemp(prefix="sparsecode-index-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def missing(package: str, index: str, extra: str) -> ImportError:
    """Return the error for an engine that is not installed."""
    return ImportError(
        f"`{index}` needs {package}. Install it with pip install 'sparsecode[{extra}]'."
    )
