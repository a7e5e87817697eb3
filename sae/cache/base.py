"""What everything that reads activations is written against: rows in blocks."""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from sae.cache.buffers import Buffers
from sae.cache.format import from_bits, to_bits
from sae.cache.prefetch import prefetched
from sae.cache.shuffle import Window, windows
from sae.cache.statistics import RowStatistics
from sparsecode._checks import check_float, check_int

SPLITS = ("train", "heldout")
WINDOW_BYTES = 2**29
STORAGE_SHIFT = 40  # a piece of storage has fewer rows than 2 to this
ROW_MASK = (1 << STORAGE_SHIFT) - 1
_PART_BYTES = 2**21  # of rows that are picked before they are converted
_PREPARED = 128  # blocks that a thread looks at together
_READERS = min(4, os.cpu_count() or 1)
_SERIAL = 2**15 - 1  # torch runs an elementwise operation on fewer elements in the calling thread


class AbstractSource(ABC):
    """Rows of activations that can be read in order, by number, and as a shuffled stream.

    A source is a list of blocks of consecutive rows. Subclasses give the size of each block and
    read one; everything else is written here once.

    Attributes
    ----------
    n_features : int
        Width of a row.
    dtype : torch.dtype
        Dtype of the rows as they are stored.
    split : str or None
        "train", "heldout" or None for all rows.
    """

    n_features: int
    dtype: torch.dtype
    split: str | None
    _ends: np.ndarray  # number of rows up to and including each block

    @abstractmethod
    def _read_block(self, block: int) -> np.ndarray:
        """Return the rows of one block, (rows, n_features), as `format.to_bits` stores them."""

    @abstractmethod
    def _prepare(self, blocks: np.ndarray) -> None:
        """Check blocks that were not read before, and let the system bring all into memory."""

    @abstractmethod
    def _place(self, blocks: np.ndarray) -> np.ndarray:
        """Return where the rows of blocks lie, one after the other, int64.

        A place is ``storage << STORAGE_SHIFT | row``.
        """

    @abstractmethod
    def _pick(self, storage: int, rows: np.ndarray, out: np.ndarray) -> None:
        """Copy rows of one piece of storage into `out`."""

    @property
    def _in_one_piece(self) -> bool:
        """Whether all rows lie in the storage's piece 0, so that a place is a row."""
        return True

    @property
    @abstractmethod
    def statistics(self) -> RowStatistics:
        """Mean and norms over all rows, those outside of the split included."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Digest that two sources share only if they give the same rows."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def mean(self) -> Tensor:
        """Mean row, float64 of shape (n_features,); see `statistics`."""
        return self.statistics.mean

    def __len__(self) -> int:
        return self.n_rows

    def rows(self, start: int, stop: int, *, dtype: torch.dtype | None = torch.float32) -> Tensor:
        """Return consecutive rows.

        Parameters
        ----------
        start, stop : int
            First row, and the row behind the last one.
        dtype : torch.dtype or None, default=torch.float32
            None keeps the stored dtype.

        Returns
        -------
        Tensor of shape (stop - start, n_features)
            A copy.
        """
        self._check_range(start, stop)
        rows = np.empty((stop - start, self.n_features), dtype=_bits_of(self.dtype))
        for block, first, last, at in self._pieces(start, stop):
            rows[at : at + last - first] = self._read_block(block)[first:last]
        return self._converted(rows, dtype or self.dtype)

    def take(
        self, indices: Tensor | np.ndarray, *, dtype: torch.dtype | None = torch.float32
    ) -> Tensor:
        """Return rows by their numbers, in the given order.

        Parameters
        ----------
        indices : integer tensor or array of shape (N,)
        dtype : torch.dtype or None, default=torch.float32
            None keeps the stored dtype.

        Returns
        -------
        Tensor of shape (N, n_features)
        """
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(wanted):
            self._check_range(int(wanted.min()), int(wanted.max()) + 1)
        blocks = np.searchsorted(self._ends, wanted, side="right")
        rows = np.empty((len(wanted), self.n_features), dtype=_bits_of(self.dtype))
        order = np.argsort(blocks, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            if len(group):
                block = int(blocks[group[0]])
                rows[group] = self._read_block(block)[wanted[group] - self._start(block)]
        return self._converted(rows, dtype or self.dtype)

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        start_row: int = 0,
        epochs: int | None = None,
        shuffle: bool = True,
        *,
        dtype: torch.dtype | None = torch.float32,
        window_bytes: int = WINDOW_BYTES,
    ) -> Generator[Tensor, None, None]:
        """Stream the rows in batches, read ahead by a thread.

        The stream runs through all rows, epoch after epoch, each in an order of its own; batches
        cross the border between epochs. The order of rows depends on `seed` and `window_bytes` and
        not on the batch size. If all rows fit in `window_bytes` (512 MiB), an epoch is a uniform
        permutation; otherwise blocks of about 1 MiB are permuted, and then the rows of as many
        blocks as fit. Rows are picked where they lie, in mapped files or an array: only some
        batches and two windows' row numbers are in memory, however large the data are.

        Parameters
        ----------
        batch_size : int
        seed : int, default=0
        start_row : int, default=0
            Rows of the stream to leave out at its beginning, without reading them: a run that
            consumed that many rows continues exactly.
        epochs : int or None, default=None
            Passes over the rows, counted from the beginning of the stream; the last batch may then
            be smaller. None is an endless stream.
        shuffle : bool, default=True
            False gives the rows in their order.
        dtype : torch.dtype or None, default=torch.float32
            None keeps the stored dtype.
        window_bytes : int, default=2**29
            Stored bytes that are mixed with each other.

        Yields
        ------
        Tensor of shape (batch_size, n_features)
        """
        batch_size = check_int("batch_size", batch_size, low=1)
        seed = check_int("seed", seed, low=0, high=2**64 - 1)
        start_row = check_int("start_row", start_row, low=0)
        if epochs is not None:
            epochs = check_int("epochs", epochs, low=1)
        if self.n_rows == 0:
            raise ValueError("a stream of batches must have at least one row to read; got none.")
        row_bytes = self.n_features * self.dtype.itemsize
        window_rows = check_int("window_bytes", window_bytes, low=1) // row_bytes
        plan = windows(
            np.diff(self._ends, prepend=0),
            window_rows=max(1, window_rows),
            seed=seed,
            start_row=start_row,
            epochs=epochs,
            shuffle=shuffle,
        )
        return self._stream(plan, batch_size, dtype or self.dtype)

    def _stream(
        self, plan: Iterator[Window], batch_size: int, dtype: torch.dtype
    ) -> Generator[Tensor, None, None]:
        """Yield batches; threads make the next ones, and one more looks at the next window."""
        n_bytes = batch_size * self.n_features * dtype.itemsize
        batches = Buffers(n_bytes, _READERS + 4)  # those under way, and some with the consumer
        step = max(1, min(batch_size, _PART_BYTES // (self.n_features * self.dtype.itemsize)))
        scratches = Buffers(2 * step * self.n_features * self.dtype.itemsize, _READERS + 2)
        pending: deque[Future[Tensor]] = deque()

        def submit(places: np.ndarray) -> None:
            out = torch.from_numpy(batches.get()).view(dtype).view(batch_size, self.n_features)
            scratch = scratches.get().view(_bits_of(self.dtype)).reshape(2, step, self.n_features)
            pending.append(pool.submit(self._pick_all, places, scratch, out[: len(places)]))

        with ThreadPoolExecutor(_READERS, "sparsecode-reader") as pool:
            windows_ahead = prefetched(self._places(plan, pool), 1)
            try:
                head = np.empty(0, dtype=np.int64)
                for served in windows_ahead:
                    places = np.concatenate([head, served]) if len(head) else served
                    stop = len(places) // batch_size * batch_size
                    for start in range(0, stop, batch_size):
                        submit(places[start : start + batch_size])
                        if len(pending) > _READERS:
                            yield pending.popleft().result()
                    head = places[stop:]
                if len(head):
                    submit(head)
                while pending:
                    yield pending.popleft().result()
            finally:
                windows_ahead.close()
                for future in pending:
                    future.cancel()

    def _places(
        self, plan: Iterator[Window], pool: ThreadPoolExecutor
    ) -> Generator[np.ndarray, None, None]:
        """Yield the places of the rows of each window in the order in which to serve them."""
        blocks, places = None, np.empty(0, dtype=np.int64)
        for window in plan:
            if window.blocks is not blocks:  # else these are all blocks, as in the last epoch
                blocks = window.blocks
                parts = [blocks[i : i + _PREPARED] for i in range(0, len(blocks), _PREPARED)]
                prepared = pool.map(self._prepare, parts)
                order = window.order  # is found meanwhile
                list(prepared)
                places = self._place(blocks)
            else:
                order = window.order
            yield places[order]

    def _pick_all(self, places: np.ndarray, scratch: np.ndarray, out: Tensor) -> Tensor:
        """Copy the rows at `places` into `out`, a tensor of any dtype."""
        same = out.dtype == self.dtype
        if same and self._in_one_piece:
            self._pick(0, places, to_bits(out))
            return out
        step = scratch.shape[1]
        for start in range(0, len(places), step):  # a part stays in the processor's cache
            part, target = places[start : start + step], out[start : start + step]
            stored = to_bits(target) if same else scratch[1, : len(part)]
            self._pick_part(part, scratch[0, : len(part)], stored)
            if not same:
                self._convert(from_bits(stored, self.dtype), target)
        return out

    def _pick_part(self, places: np.ndarray, scratch: np.ndarray, out: np.ndarray) -> None:
        if self._in_one_piece:
            self._pick(0, places, out)
            return
        order = np.argsort(places)  # one piece of storage after the other
        storage, rows = places[order] >> STORAGE_SHIFT, places[order] & ROW_MASK
        ends = [0, *(np.flatnonzero(np.diff(storage)) + 1).tolist(), len(rows)]
        for first, last in pairwise(ends):
            self._pick(int(storage[first]), rows[first:last], scratch[first:last])
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        np.take(scratch, inverse, axis=0, out=out, mode="clip")

    def _converted(self, rows: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Return stored rows, which must be writable, as a tensor of `dtype`."""
        stored = from_bits(rows, self.dtype)
        if dtype == self.dtype:
            return stored
        out = torch.empty(stored.shape, dtype=dtype)
        self._convert(stored, out)
        return out

    def _convert(self, stored: Tensor, out: Tensor) -> None:
        """Copy rows into `out`, a tensor of another dtype.

        The work is done in the calling thread: in one piece torch would share it with its own
        threads, which a training step is using. All pieces are one call, as Python has one lock.
        """
        step = max(1, _SERIAL // self.n_features)
        torch._foreach_copy_(out.split(step), stored.split(step))

    def _start(self, block: int) -> int:
        return int(self._ends[block - 1]) if block else 0

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield (block, first, last, place) of the parts of blocks that make up a range of rows."""
        block = int(np.searchsorted(self._ends, start, side="right"))
        at = start
        while at < stop:
            offset = self._start(block)
            last = min(stop, int(self._ends[block]))
            if last > at:
                yield block, at - offset, last - offset, at - start
            at, block = max(at, last), block + 1

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(
                f"rows must satisfy 0 <= start <= stop <= n_rows = {self.n_rows}; got {start} and "
                f"{stop}."
            )


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return ranges of integers, one behind the other: ``starts[i]``, ``starts[i] + 1``, ...

    >>> ranges(np.array([10, 3]), np.array([2, 3])).tolist()
    [10, 11, 3, 4, 5]
    """
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))


def check_fraction(fraction: float, split: str | None = None) -> float:
    """Return a share to hold out, less than 1; it is 0 only if the held-out side is not wanted."""
    wanted = split == "heldout"
    if check_float("heldout_fraction", fraction, low=0, high=1, open_low=wanted) == 1:
        raise ValueError(
            "`heldout_fraction` must be less than 1; got 1. Nothing would be left to train on."
        )
    return float(fraction)


def _bits_of(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=torch.uint16 if dtype == torch.bfloat16 else dtype).numpy().dtype
