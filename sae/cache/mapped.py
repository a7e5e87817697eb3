"""Files mapped into memory: as one array, told to the system before they are read, picked from."""

import ctypes
import math
import mmap
import os
import sys
import weakref
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

_MAP_FIXED = 0x10  # of Linux; the module mmap has all the others
_LOOKED_UP = 512  # rows, few enough that the processor still knows the first when it copies it
_NEAR = 2**24  # bytes; the processor keeps the addresses of the pages of less
_FAILED = ctypes.c_void_p(-1).value


def map_in_a_row(
    paths: Sequence[Path], header_bytes: int, row_bytes: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Map files of rows to neighbouring addresses, so that one array has the rows of all.

    Between the rows of two files lie some that must not be touched: every file begins at a page,
    and a whole number of rows after the one before.

    Parameters
    ----------
    paths : sequence of path
        Files with a header and rows behind it.
    header_bytes : int
        Size of the header, the same in all.
    row_bytes : int

    Returns
    -------
    array of shape (n, row_bytes), uint8, and array of shape (n_files,), int64, or None
        The rows, read-only, and the number of each file's first one. None where the system has no
        such mapping (Linux has it) or refuses it.
    """
    if sys.platform != "linux":
        return None
    sizes = [path.stat().st_size for path in paths]
    unit = math.lcm(mmap.PAGESIZE, row_bytes)
    starts = [0, *accumulate(-(-size // unit) * unit for size in sizes)]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = _map(0, starts[-1], 0, flags, -1)
    if base is None:
        return None
    memory: Any = np.ctypeslib.as_array((ctypes.c_uint8 * starts[-1]).from_address(base))
    memory.flags.writeable = False
    weakref.finalize(memory, _system().munmap, base, ctypes.c_size_t(starts[-1])).atexit = False
    for path, start, size in zip(paths, starts, sizes, strict=False):
        handle = os.open(path, os.O_RDONLY)
        try:
            flags = mmap.MAP_SHARED | _MAP_FIXED
            if _map(base + start, size, mmap.PROT_READ, flags, handle) is None:
                return None
        finally:
            os.close(handle)
    n_rows = (starts[-1] - header_bytes) // row_bytes
    rows = memory[header_bytes : header_bytes + n_rows * row_bytes].reshape(n_rows, row_bytes)
    return rows, np.array(starts[:-1], dtype=np.int64) // row_bytes


def pick(rows: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Copy the rows at `places` into `out`.

    Of rows that lie far apart one value each is read first. Where they are in memory is then found
    out for many at a time, and not for one after the other as they are copied, which takes up to
    1.8 times as long.

    Parameters
    ----------
    rows : array of shape (n, width)
        Contiguous.
    places : array of shape (m,), int64
    out : array of shape (m, width), of the dtype of `rows`
    """
    width = rows.shape[1]
    values = rows.reshape(-1)
    for start in range(0, len(places), _LOOKED_UP):
        part = places[start : start + _LOOKED_UP]
        if values.nbytes > _NEAR:
            values.take(part * width, mode="clip")
        # The mode "raise" would copy once more.
        np.take(rows, part, axis=0, out=out[start : start + len(part)], mode="clip")


def will_need(rows: np.ndarray, path: Path | None = None) -> None:
    """Ask for the pages of mapped rows, which then come in large reads and before they are used.

    Does nothing where there is no such request (Linux has it).

    Parameters
    ----------
    rows : array
        Neighbours in memory.
    path : Path or None, default=None
        The mapped file. With it nothing is asked if all is in memory: to see that takes a tenth of
        the time of asking. Of the files of others the system does not tell.
    """
    if sys.platform == "linux" and rows.nbytes:
        address = rows.ctypes.data
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        length = address + rows.nbytes - start
        if path is None or not _is_told_of(path) or not _in_memory(start, length):
            _system().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_WILLNEED)


def _in_memory(start: int, length: int) -> bool:
    """Return whether all pages of a mapping are in memory; `start` is that of a page."""
    pages = np.zeros(-(-length // mmap.PAGESIZE), dtype=np.uint8)
    found = _system().mincore(
        ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_void_p(pages.ctypes.data)
    )
    return found == 0 and bool((pages & 1).all())


@lru_cache(maxsize=4096)
def _is_told_of(path: Path) -> bool:
    """Return whether `mincore` says the truth; of files of others it says that all is there."""
    return path.stat().st_uid == os.geteuid() or os.access(path, os.W_OK)


def _map(address: int, size: int, protection: int, flags: int, handle: int) -> int | None:
    found = _system().mmap(
        ctypes.c_void_p(address), ctypes.c_size_t(size), protection, flags, handle,
        ctypes.c_long(0),
    )  # fmt: skip
    return None if found == _FAILED else found


@lru_cache
def _system() -> Any:
    library = ctypes.CDLL(None)
    library.mmap.restype = ctypes.c_void_p
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library
