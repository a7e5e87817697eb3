"""Which rows of a data set are for training and which are held out."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sparsecode._checks import check_choice, check_float
from sparsecode.training.array_rows import ArrayRows
from sparsecode.training.task import RowSource

SPLITS = ("auto", "heldout", "train", "all")


def rows_of(
    data: Any, *, split: str, heldout_share: float, n_features: int
) -> tuple[RowSource | None, str]:
    """Return the rows of one split, None if there are none, and the name of the split.

    A cache is split by documents. Of an array the last rows are held out: neighboring rows
    come from the same text, so a random choice would leak.

    Parameters
    ----------
    data : cache folder, cache, ``.npy`` file, array or tensor
    split : {"auto", "heldout", "train", "all"}
        "auto" is "heldout" for a cache and "all" for an array.
    heldout_share : float
        Of a plain array.
    n_features : int
        The width that the rows must have.
    """
    check_choice("split", split, SPLITS)
    share = check_float("heldout_share", heldout_share, low=0.0, high=0.9)
    if isinstance(data, (str, Path)) and Path(data).suffix == ".npy":
        data = np.load(data, mmap_mode="r", allow_pickle=False)
    if not isinstance(data, (np.ndarray, Tensor)):
        raise NotImplementedError("caches come next")
    source = ArrayRows(data)
    if source.n_features != n_features:
        raise ValueError(
            f"`data` must have shape (n_rows, n_features) = (any, {n_features}); "
            f"got {tuple(data.shape)}."
        )
    n_train = source.n_rows - round(source.n_rows * share)
    if split == "train":
        return ArrayRows(data[:n_train]), split
    if split == "heldout":
        return (ArrayRows(data[n_train:]), split) if n_train < source.n_rows else (None, split)
    return source, "all"
