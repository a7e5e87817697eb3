"""The order in which rows are read: a function of the seed and of nothing else that can change.

An epoch visits every row once. Rows come in blocks; the blocks of an epoch are permuted, then cut
into windows of at most a given number of rows, and the rows of a window are permuted. With one
window, the usual case of data that fit in it, this is a uniform permutation of all rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, pairwise

import numpy as np


@dataclass(frozen=True)
class Window:
    """Blocks that are read together.

    ``blocks`` are the blocks in reading order, ``starts[i]`` is the row of the window with which
    the i-th of them begins, ``key`` the seed of its order, None for rows in their order, and
    ``served`` the number of rows that were served before a resumption.
    """

    blocks: np.ndarray
    starts: np.ndarray
    key: tuple[int, ...] | None
    served: int

    @property
    def rows(self) -> int:
        """Number of rows that are read."""
        return int(self.starts[-1])

    @cached_property
    def order(self) -> np.ndarray:
        """The rows to serve; found when first asked for, as a permutation takes its time."""
        if self.key is None:
            return np.arange(self.served, self.rows)
        return _random(*self.key).permutation(self.rows)[self.served :]


def windows(
    sizes: np.ndarray,
    *,
    window_rows: int,
    seed: int,
    start_row: int,
    epochs: int | None,
    shuffle: bool,
) -> Iterator[Window]:
    """Yield the windows of the stream of rows, from row `start_row` of it on.

    Parameters
    ----------
    sizes : array of shape (n_blocks,)
        Rows of each block.
    window_rows : int
        Most rows of a window, unless a block has more.
    seed : int
    start_row : int
        Rows of the stream that were served before.
    epochs : int or None
        Length of the stream; None is endless.
    shuffle : bool
        False gives the rows in their order.
    """
    n_rows = int(sizes.sum())
    n_windows = -(-n_rows // window_rows)
    in_order = np.arange(len(sizes))
    first_epoch, skip = divmod(start_row, n_rows)
    for epoch in count(first_epoch) if epochs is None else range(first_epoch, epochs):
        mixed = shuffle and n_windows > 1
        blocks = _random(seed, epoch).permutation(in_order) if mixed else in_order
        # Windows of nearly equal size: a small last one would mix its rows among themselves only.
        targets = np.arange(1, n_windows) * n_rows // n_windows
        cuts = [0, *(np.searchsorted(np.cumsum(sizes[blocks]), targets) + 1).tolist(), len(blocks)]
        for number, (first, last) in enumerate(pairwise(cuts), 1):
            chosen = blocks if n_windows == 1 else blocks[first:last]
            starts = np.concatenate([[0], np.cumsum(sizes[chosen])])
            rows = int(starts[-1])
            if skip >= rows:
                skip -= rows
                continue
            yield Window(chosen, starts, (seed, epoch, number) if shuffle else None, skip)
            skip = 0


def _random(seed: int, *key: int) -> np.random.RandomState:
    # RandomState, and not Generator: numpy promises that its stream never changes, so a run can be
    # resumed with another version of numpy.
    words = [seed & 0xFFFFFFFF, seed >> 32, *key]
    return np.random.RandomState(words)
