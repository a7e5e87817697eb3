"""Files mapped into memory: telling the system what will be read next."""

import ctypes
import mmap
import sys
from functools import lru_cache
from typing import Any

import numpy as np


def will_need(rows: np.ndarray) -> None:
    """Ask for the pages of mapped rows, which then come in large reads and before they are used.

    Does nothing for pages that are in memory, and where there is no such request (Linux has it).
    """
    if sys.platform == "linux" and rows.nbytes:
        address = rows.ctypes.data
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        length = address + rows.nbytes - start
        _system().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_WILLNEED)


@lru_cache
def _system() -> Any:
    return ctypes.CDLL(None)
