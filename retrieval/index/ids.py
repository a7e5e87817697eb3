"""Names of documents: all ints or all strings, each once."""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

IdKind = Literal["int", "str"]
LONGEST = 512


def check_ids(name: str, ids: Iterable[Any], kind: IdKind | None = None) -> np.ndarray:
    """Return ids as an array: int64, or UTF-8 bytes, which sort as the strings do.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    ids : iterable of int or of str
    kind : {"int", "str"} or None, default=None
        What the index holds already; None accepts both.

    Returns
    -------
    ndarray of shape (n,), int64 or bytes
    """
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"`{name}` must be a sequence of ids; got the single string {ids!r}.")
    listed = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if not listed:
        return np.empty(0, "S1" if kind == "str" else np.int64)
    is_text = isinstance(listed[0], str)
    if kind is not None and is_text != (kind == "str"):
        raise TypeError(f"`{name}` must be {_PLURAL[kind]}, as in this index; got {listed[0]!r}.")
    return _encoded(name, listed) if is_text else _numbers(name, listed)


def check_unique(name: str, ids: np.ndarray) -> None:
    """Refuse ids that occur twice."""
    ascending = np.sort(ids)
    twice = np.flatnonzero(ascending[1:] == ascending[:-1])
    if twice.size:
        first = decode_ids(ascending[twice[:1]])[0]
        raise ValueError(f"`{name}` must be unique; got {first!r} twice.")


def kind_of(ids: np.ndarray) -> IdKind:
    """Return what an array from `check_ids` holds."""
    return "str" if ids.dtype.kind == "S" else "int"


def decode_ids(ids: np.ndarray) -> list[Any]:
    """Return ids as users know them."""
    return [one.decode() for one in ids.tolist()] if ids.dtype.kind == "S" else ids.tolist()


_PLURAL = {"int": "ints", "str": "strings"}


def _encoded(name: str, listed: list[Any]) -> np.ndarray:
    for one in listed:
        if not isinstance(one, str):
            raise TypeError(f"`{name}` must be all ints or all strings; got {one!r} among strings.")
        size = len(one.encode(errors="surrogatepass"))
        if not 0 < size <= LONGEST or "\0" in one or any("\ud800" <= c <= "\udfff" for c in one):
            raise ValueError(
                f"`{name}` must be strings of 1 to {LONGEST} bytes of UTF-8 without a zero byte; "
                f"got {one[:40]!r}."
            )
    return np.array([one.encode() for one in listed])


def _numbers(name: str, listed: list[Any]) -> np.ndarray:
    for one in listed:
        if isinstance(one, bool) or not isinstance(one, (int, np.integer)):
            raise TypeError(f"`{name}` must be all ints or all strings; got {one!r}.")
        if not 0 <= one < 2**63 - 1:  # there is always a next one
            raise ValueError(f"`{name}` must be ints in [0, 2^63 - 1); got {one}.")
    return np.array(listed, np.int64)
