"""Rows of an array or tensor as the loop takes them: shuffled, without end, resumable."""

from collections.abc import Generator
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sparsecode._checks import check_int


class ArrayRows:
    """The rows of a matrix in memory, or of a memory-mapped one.

    Each epoch is a new permutation of all rows, drawn from the seed and the number of the
    epoch. Batches run across the ends of epochs, so all are full, and the order of rows does
    not depend on the batch size.

    Parameters
    ----------
    array : array, SciPy CSR matrix or Tensor of shape (N, D)
        Real numbers; NaN and infinity are refused when they are met.

    Examples
    --------
    >>> rows = ArrayRows(torch.arange(3.0).reshape(3, 1))
    >>> stream = rows.batches(2, seed=0, start_row=0)
    >>> first = torch.cat([next(stream), next(stream), next(stream)]).flatten()
    >>> first[:3].sort().values, first[3:].sort().values
    (tensor([0., 1., 2.]), tensor([0., 1., 2.]))
    """

    def __init__(self, array: Any) -> None:
        is_csr = scipy.sparse.issparse(array) and array.format == "csr"
        if not (is_csr or isinstance(array, (np.ndarray, Tensor))):
            raise TypeError(
                f"`data` must be an array, a CSR matrix or a tensor; got {type(array).__name__}."
            )
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(
                "`data` must have shape (n_rows, n_features) with at least one row; "
                f"got {tuple(array.shape)}."
            )
        complex_or_text = (
            array.is_complex() if isinstance(array, Tensor) else array.dtype.kind not in "fiub"
        )
        if complex_or_text:
            raise TypeError(f"`data` must hold real numbers; got dtype {array.dtype}.")
        self.array = array
        self.n_rows, self.n_features = (int(size) for size in array.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows in their stored order, as a floating tensor."""
        return self._floating(self.array[start:stop])

    def batches(
        self, batch_size: int, *, seed: int = 0, start_row: int = 0
    ) -> Generator[Tensor, None, None]:
        """Yield batches without end.

        Parameters
        ----------
        batch_size : int
        seed : int, default=0
        start_row : int, default=0
            Rows of the stream to skip, so that a stopped reader goes on where it was.
        """
        batch_size = check_int("batch_size", batch_size, low=1)
        epoch, place = divmod(check_int("start_row", start_row, low=0), self.n_rows)
        order, parts, wanted = self._order(seed, epoch), [], batch_size
        while True:
            parts.append(order[place : place + wanted])
            place, wanted = place + len(parts[-1]), wanted - len(parts[-1])
            if wanted == 0:
                yield self._floating(self.array[torch.cat(parts).numpy()])
                parts, wanted = [], batch_size
            if place == self.n_rows:
                epoch, place = epoch + 1, 0
                order = self._order(seed, epoch)

    def _order(self, seed: int, epoch: int) -> Tensor:
        mixed = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03) % 2**63
        return torch.randperm(self.n_rows, generator=torch.Generator().manual_seed(mixed))

    def _floating(self, part: Any) -> Tensor:
        if scipy.sparse.issparse(part):
            part = part.toarray()
        if not isinstance(part, Tensor):
            # A copy: the memory may be read-only or in the byte order of another machine.
            part = torch.from_numpy(np.array(part, part.dtype.newbyteorder("="), order="C"))
        return part if part.is_floating_point() else part.float()


class PairedRows:
    """Rows of two matrices side by side: what is encoded, and what is to be predicted from it.

    Parameters
    ----------
    inputs, targets : ArrayRows
        With equally many rows.

    Examples
    --------
    >>> pairs = PairedRows(ArrayRows(torch.zeros(3, 2)), ArrayRows(torch.ones(3, 1)))
    >>> pairs.n_features, pairs.rows(0, 1)
    (3, tensor([[0., 0., 1.]]))
    """

    def __init__(self, inputs: ArrayRows, targets: ArrayRows) -> None:
        if inputs.n_rows != targets.n_rows:
            raise ValueError(
                f"`targets` must have one row for each of {inputs.n_rows} inputs; "
                f"got {targets.n_rows}."
            )
        self.inputs, self.targets = inputs, targets
        self.n_rows, self.n_features = inputs.n_rows, inputs.n_features + targets.n_features

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows in their stored order, as a floating tensor."""
        return _beside(self.inputs.rows(start, stop), self.targets.rows(start, stop))

    def batches(
        self, batch_size: int, *, seed: int = 0, start_row: int = 0
    ) -> Generator[Tensor, None, None]:
        """Yield batches without end; see `ArrayRows.batches`."""
        streams = (
            part.batches(batch_size, seed=seed, start_row=start_row)
            for part in (self.inputs, self.targets)
        )
        for inputs, targets in zip(*streams, strict=True):
            yield _beside(inputs, targets)


def _beside(inputs: Tensor, targets: Tensor) -> Tensor:
    return torch.cat([inputs, targets.to(inputs.device, inputs.dtype)], dim=1)
