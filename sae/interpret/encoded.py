"""EncodedRows: the codes of all rows of a data set, computed when they are asked for."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sae.autoencoders import AbstractAutoencoder
from sae.evaluation.reconstruction import evaluation_mode
from sparsecode import SparseCodes
from sparsecode._checks import check_int


class EncodedRows:
    """The codes of an autoencoder on the rows of a data set, in blocks of consecutive rows.

    Codes are sparse, so those of a small data set fit in memory: blocks are kept until
    `keep_bytes` are used, and encoded again where they were not kept. Blocks always start at
    multiples of `block_rows`, so a row gets the same code, to the last bit, whoever asks for it.

    Parameters
    ----------
    model : AbstractAutoencoder
        Used as at inference; not changed.
    data : Cache or other source
        See `sae.cache.as_source`.
    max_rows : int or None, default=None
        Take only the first rows; None takes all.
    block_rows : int, default=4096
        Rows encoded at a time.
    keep_bytes : int, default=2**29
        Memory for codes that are kept.
    progress : callable or None, default=None
        Called with the number of rows after each block that was encoded.

    Examples
    --------
    >>> import sae
    >>> from sae.cache import as_source
    >>> model = sae.TopK(n_features=8, n_latents=16, k=2, seed=0)
    >>> encoded = EncodedRows(model, as_source(torch.eye(8)))
    >>> [(start, codes.shape) for start, codes in encoded.blocks()]
    [(0, (8, 16))]
    """

    def __init__(
        self,
        model: AbstractAutoencoder,
        data: Any,
        *,
        max_rows: int | None = None,
        block_rows: int = 4096,
        keep_bytes: int = 2**29,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        if data.n_features != model.row_width:
            raise ValueError(
                f"`data` must have rows of n_features = {model.row_width}; got {data.n_features}. "
                "Is it the activation cache that the autoencoder was trained on?"
            )
        self.model = model
        self.data = data
        self.block_rows = check_int("block_rows", block_rows, low=1)
        limit = data.n_rows if max_rows is None else check_int("max_rows", max_rows, low=1)
        self.n_rows = min(int(data.n_rows), limit)
        self.n_latents = model.n_latents
        self._room = check_int("keep_bytes", keep_bytes, low=0)
        self._progress = progress
        self._kept: dict[int, SparseCodes] = {}

    def block(self, number: int) -> SparseCodes:
        """Return the ragged codes, float32 on the CPU, of rows from ``number * block_rows`` on."""
        if number in self._kept:
            return self._kept[number]
        start = number * self.block_rows
        x_ND = self.data.rows(start, min(start + self.block_rows, self.n_rows))
        weight = self.model.b_dec
        with torch.no_grad(), evaluation_mode(self.model):
            x_ND, _ = self.model.input_and_target(x_ND.to(weight.device, weight.dtype))
            codes = self.model.encode(x_ND)
        codes = codes.to("cpu", torch.float32).to_ragged()
        size = codes.values.numel() * (codes.values.itemsize + codes.indices.itemsize)
        if size <= self._room:
            self._room -= size
            self._kept[number] = codes
        if self._progress is not None:
            self._progress(len(x_ND))
        return codes

    def blocks(self) -> Iterator[tuple[int, SparseCodes]]:
        """Yield the first row and the codes of every block, in order."""
        for number in range(-(-self.n_rows // self.block_rows)):
            yield number * self.block_rows, self.block(number)

    def values_at(self, latents: Tensor, rows: Tensor) -> Tensor:
        """Return the value of one latent in one row, for each of E pairs.

        Parameters
        ----------
        latents, rows : Tensor of shape (E,), int64
            In any order.

        Returns
        -------
        Tensor of shape (E,), float32
            0 where the latent did not fire.
        """
        keys, place = (rows * self.n_latents + latents).unique(return_inverse=True)
        found = torch.zeros(keys.numel())
        wanted = (keys // self.n_latents).div(self.block_rows, rounding_mode="floor")
        for number in wanted.unique_consecutive().tolist():
            codes = self.block(number)
            entries = (codes.row_ids() + number * self.block_rows) * self.n_latents + codes.indices
            at = torch.searchsorted(keys, entries).clamp_(max=keys.numel() - 1)
            hit = keys[at] == entries
            found[at[hit]] = codes.values[hit]
        return found[place]
