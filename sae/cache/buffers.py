"""Memory that is used again: clearing the pages of new memory takes longer than a copy."""

import sys

import numpy as np


class Buffers:
    """Arrays of bytes, each given out again once nobody holds it or a view of it any more.

    Not for several threads at once.

    Parameters
    ----------
    n_bytes : int
        Size of each.
    most : int
        Number of arrays that are kept. Beyond it new ones are made and forgotten.

    Examples
    --------
    >>> buffers = Buffers(8, most=2)
    >>> array = buffers.get()
    >>> address, view = array.ctypes.data, array[2:4]
    >>> del array
    >>> buffers.get().ctypes.data == address
    False
    >>> del view
    >>> buffers.get().ctypes.data == address
    True
    """

    def __init__(self, n_bytes: int, most: int) -> None:
        self._n_bytes, self._most = n_bytes, most
        self._arrays: list[np.ndarray] = []
        # What `getrefcount` says of an array that only the list holds, as the loop below sees it.
        self._idle = next(sys.getrefcount(array) for array in [np.empty(0)])

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self) -> np.ndarray:
        """Return an array whose bytes can be anything."""
        for array in self._arrays:
            if sys.getrefcount(array) == self._idle:
                return array
        array = np.empty(self._n_bytes, dtype=np.uint8)
        if len(self._arrays) < self._most:
            self._arrays.append(array)
        return array
