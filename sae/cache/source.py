"""What everything that reads activations is written against: rows in blocks."""

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from sae.cache.format import from_bits
from sae.cache.prefetch import prefetched
from sae.cache.shuffle import Window, windows
from sae.cache.statistics import RowStatistics
from sparsecode._checks import check_float, check_int

SPLITS = ("train", "heldout")
WINDOW_BYTES = 2**28
_READERS = min(4, os.cpu_count() or 1)
_BATCHES_AHEAD = 4
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
        out = torch.empty(stop - start, self.n_features, dtype=dtype or self.dtype)
        for block, first, last, at in self._pieces(start, stop):
            rows = np.array(self._read_block(block)[first:last])
            _convert(from_bits(rows, self.dtype), out[at : at + last - first])
        return out

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
        out = torch.empty(len(wanted), self.n_features, dtype=dtype or self.dtype)
        order = np.argsort(blocks, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1):
            if len(group):
                block = int(blocks[group[0]])
                local = wanted[group] - self._start(block)
                rows = np.ascontiguousarray(self._read_block(block)[local])
                out[torch.from_numpy(group)] = from_bits(rows, self.dtype).to(out.dtype)
        return out

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
        not on the batch size. If all rows fit in `window_bytes` (256 MiB), an epoch is a uniform
        permutation; otherwise blocks of about 1 MiB are permuted, and then the rows of as many
        blocks as fit. Two windows are in memory at a time, however large the data are.

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
        window_bytes : int, default=2**28
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
        return prefetched(self._stream(plan, batch_size, dtype or self.dtype), _BATCHES_AHEAD)

    def _stream(
        self, plan: Iterator[Window], batch_size: int, dtype: torch.dtype
    ) -> Generator[Tensor, None, None]:
        batch, filled = torch.empty(batch_size, self.n_features, dtype=dtype), 0
        filling = prefetched(self._filled(plan), 1)
        try:
            for window in filling:
                done = 0
                while done < len(window):
                    size = min(batch_size - filled, len(window) - done)
                    _convert(window[done : done + size], batch[filled : filled + size])
                    done, filled = done + size, filled + size
                    if filled == batch_size:
                        yield batch
                        batch, filled = torch.empty_like(batch), 0
                del window
        finally:
            filling.close()
        if filled:
            yield batch[:filled]

    def _filled(self, plan: Iterator[Window]) -> Generator[Tensor, None, None]:
        """Yield the rows of each window in their places."""
        with ThreadPoolExecutor(_READERS, "sparsecode-reader") as pool:
            for window in plan:
                bits = np.empty((window.rows, self.n_features), dtype=_bits_of(self.dtype))
                # A row is one item of `slots`: numpy moves it as a whole, and without the GIL.
                slots = bits.view(np.dtype((np.void, bits.itemsize * self.n_features)))[:, 0]

                def place(number: int, window: Window = window, slots: np.ndarray = slots) -> None:
                    places = window.places[window.starts[number] : window.starts[number + 1]]
                    kept = places >= 0
                    if kept.any():
                        rows = np.ascontiguousarray(self._read_block(int(window.blocks[number])))
                        rows = rows.view(slots.dtype)[:, 0]
                        if kept.all():
                            slots[places] = rows
                        else:
                            slots[places[kept]] = rows[kept]

                list(pool.map(place, range(len(window.blocks))))
                yield from_bits(bits, self.dtype)
                del bits, slots, place

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


def check_fraction(fraction: float) -> float:
    """Return a share to hold out, strictly between 0 and 1."""
    if check_float("heldout_fraction", fraction, low=0, high=1, open_low=True) == 1:
        raise ValueError(
            "`heldout_fraction` must be less than 1; got 1. Nothing would be left to train on."
        )
    return float(fraction)


def _bits_of(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=torch.uint16 if dtype == torch.bfloat16 else dtype).numpy().dtype


def _convert(rows: Tensor, out: Tensor) -> None:
    """Copy `rows` into `out` in the calling thread.

    In one piece torch would share the work with its own threads, which the training step is using.
    """
    step = max(1, _SERIAL // rows.shape[1])
    for start in range(0, len(rows), step):
        out[start : start + step].copy_(rows[start : start + step])
