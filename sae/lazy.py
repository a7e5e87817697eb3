"""Very wide dictionaries without their weights in memory: rows come from the file as needed."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae import compat
from sae.autoencoders import AbstractAutoencoder
from sae.compat import Stored
from sae.compat.stored import check_shapes
from sae.files import is_ours, located_model, stored_here
from sparsecode import SparseCodes, topk
from sparsecode._checks import check_int

BY_K = {"topk", "multi_topk", "hierarchical_topk"}
BY_ROW = {"batch_topk", "jumprelu", "gated", "relu"}
KEPT = {"pre_bias", "row_norm", "activation", "skip_connection", "n_targets"}
"""Settings that say what codes are, of all that the constructors take."""

OF_LATENTS = {"b_enc": 0, "W_dec": 0, "b_mag": 0, "r_mag": 0, "W_enc": 1}
BLOCK = 8192


class LazyAutoencoder:
    """An autoencoder whose encoder and decoder stay in their file until rows of them are needed.

    Each call maps the file, copies the rows that it needs and lets go of the file again, so that
    memory holds a block of latents and the codes, however wide the dictionary is. Codes and
    reconstructions are those of `sae.load`.

    Parameters
    ----------
    folder : path
        As in `sae.load`: a folder, a file, or a repository on the hub.
    hookpoint : str or None, default=None
    revision : str or None, default=None
    given : dict or None, default=None
        As in `sae.load`.
    block : int, default=8192
        Latents in memory at a time.

    Notes
    -----
    Bytes are not compared with their checksum, which would read the whole file. In the files of
    `sae.save` and SAELens the weights of one latent's encoder lie apart from each other, so that
    blocks of neighbouring latents are read faster than scattered ones; in those of sparsify,
    dictionary_learning and OpenAI they lie together.

    Examples
    --------
    >>> import tempfile, sae
    >>> model = sae.TopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lazy = LazyAutoencoder(sae.save(model, folder), block=10)
    ...     codes = lazy.encode(torch.ones(2, 8))
    ...     rows = lazy.decoder_rows([3, 30])
    >>> codes == model.encode(torch.ones(2, 8)), rows.shape
    (True, torch.Size([2, 8]))
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        hookpoint: str | None = None,
        revision: str | None = None,
        given: dict[str, Any] | None = None,
        block: int = BLOCK,
    ) -> None:
        path = located_model(folder, hookpoint, revision)
        self._open: Callable[[], Stored]
        if is_ours(path):
            self._open = lambda: stored_here(path)
        else:
            self._open = lambda: compat.read(path, given or {})
        self.block = check_int("block", block, low=1)
        stored = self._open()
        self.architecture = _checked_architecture(path, stored)
        check_shapes(stored)
        self.metadata = dict(stored.metadata)
        self.n_features, self.n_latents = stored.tensors["W_enc"].shape
        self.k: int | None = stored.settings().get("k") if self.architecture in BY_K else None
        if self.architecture == "transcoder" and stored.config.get("activation") != "jumprelu":
            self.k = stored.settings()["k"]

    def encoder_rows(self, latents: Sequence[int] | Tensor) -> Tensor:
        """Return the encoder weights of some latents, shape (n, D)."""
        return self._open().tensors["W_enc"].t()[self._ids(latents)]

    def decoder_rows(self, latents: Sequence[int] | Tensor) -> Tensor:
        """Return the decoder rows of some latents, shape (n, D)."""
        return self._open().tensors["W_dec"][self._ids(latents)]

    def part(self, latents: Sequence[int] | Tensor | slice) -> AbstractAutoencoder:
        """Return a model that has some of the latents only, in memory.

        Its codes are those of the whole model for these latents where each latent fires or not
        whatever the others do. With k latents a row it keeps the k largest of its own.

        Parameters
        ----------
        latents : sequence of int, Tensor or slice

        Returns
        -------
        AbstractAutoencoder
            In evaluation mode.
        """
        ids = latents if isinstance(latents, slice) else self._ids(latents)
        stored = self._open()
        tensors = dict(stored.tensors)
        if self.architecture == "topk":  # a matryoshka of this kind stores what it does not use
            tensors = {n: t for n, t in tensors.items() if n not in ("threshold", "n_averaged")}
        for name, axis in OF_LATENTS.items():
            if name in tensors:
                tensors[name] = _taken(tensors[name], ids, axis)
        if "threshold" in tensors and tensors["threshold"].ndim:
            tensors["threshold"] = tensors["threshold"][ids]
        kept = {name: stored.config[name] for name in KEPT if name in stored.config}
        if self.k is not None:
            kept["k"] = min(self.k, tensors["b_enc"].shape[0])
        elif self.architecture in ("batch_topk", "transcoder"):
            kept["k"] = 1  # of training only
        model = compat.build(Stored(self.architecture, kept, tensors, self.metadata))
        return model.requires_grad_(False)

    def activations(self, x: Tensor, latents: Sequence[int] | Tensor) -> Tensor:
        """Return what some latents give, before any selection of the k largest of all.

        Parameters
        ----------
        x : Tensor of shape (..., D)
        latents : sequence of int or Tensor
            n different ids.

        Returns
        -------
        Tensor of shape (..., n)
            In their order.
        """
        part = self.part(latents)
        return part.encode(x, k=part.n_latents).to_dense()

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the codes that the whole model gives, a block of latents at a time.

        Parameters
        ----------
        x : Tensor of shape (..., D)
        k : int or None, default=None
            As in `AbstractAutoencoder.encode`.

        Returns
        -------
        SparseCodes of shape (..., F)
        """
        rows = x.reshape(-1, x.shape[-1])
        wanted = self.k if k is None else check_int("k", k, low=1, high=self.n_latents)
        codes = self._fired(rows) if wanted is None else self._largest(rows, wanted)
        shape = x.shape[:-1]
        if codes.is_ragged:
            return SparseCodes(
                codes.values, codes.indices, self.n_latents, crow=codes.crow, batch_shape=shape
            )
        values, ids = (part.reshape(*shape, -1) for part in (codes.values, codes.indices))
        return SparseCodes(values, ids, self.n_latents)

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the reconstruction from codes, with the decoder rows that they use only.

        Parameters
        ----------
        codes : SparseCodes of shape (..., F)

        Returns
        -------
        Tensor of shape (..., D)
        """
        part, narrow = self._used(codes)
        return part.decode(narrow)

    def reconstruct(self, x: Tensor, codes: SparseCodes) -> Tensor:
        """Return the reconstruction from the codes of `x`, as `AbstractAutoencoder.reconstruct`."""
        part, narrow = self._used(codes)
        return part.reconstruct(x, narrow)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the reconstruction of `x`."""
        return self.reconstruct(x, self.encode(x))

    def _blocks(self) -> Iterator[tuple[int, AbstractAutoencoder]]:
        for first in range(0, self.n_latents, self.block):
            yield first, self.part(slice(first, min(first + self.block, self.n_latents)))

    def _largest(self, rows: Tensor, k: int) -> SparseCodes:
        """Return the k largest of each row: those so far against those of each further block."""
        values, ids = rows.new_zeros(len(rows), 0), torch.zeros(len(rows), 0, dtype=torch.int64)
        for first, part in self._blocks():
            codes = part.encode(rows, k=min(k, part.n_latents))
            if codes.is_ragged:
                codes = topk(codes.to_dense(), min(k, part.n_latents))
            # Earlier blocks stand first, so that ties go to the lower id as in one piece.
            values = torch.cat([values, codes.values], 1)
            ids = torch.cat([ids, codes.indices + first], 1)
            best = topk(values, min(k, values.shape[1]))
            values, ids = best.values, ids.gather(1, best.indices)
        return SparseCodes(values, ids, self.n_latents)

    def _fired(self, rows: Tensor) -> SparseCodes:
        """Return all that fires, ragged, each row's latents in the order of their ids."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for first, part in self._blocks():
            codes = part.encode(rows).to_ragged()
            found.append((codes.row_ids(), codes.indices + first, codes.values))
        of_row, ids, values = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = torch.argsort(of_row, stable=True)
        counts = torch.bincount(of_row, minlength=len(rows))
        crow = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return SparseCodes(values[order], ids[order], self.n_latents, crow=crow)

    def _used(self, codes: SparseCodes) -> tuple[AbstractAutoencoder, SparseCodes]:
        """Return a model of the latents that codes use, and the codes of it."""
        if codes.width != self.n_latents:
            raise ValueError(
                f"`codes` must have the width n_latents={self.n_latents}; got {codes.width}."
            )
        used = torch.unique(codes.indices)
        used = used if used.numel() else used.new_zeros(1)
        place = torch.searchsorted(used, codes.indices)
        if not codes.is_ragged:
            return self.part(used), SparseCodes(codes.values, place, used.numel())
        narrow = SparseCodes(
            codes.values, place, used.numel(), crow=codes.crow, batch_shape=codes.shape[:-1]
        )
        return self.part(used), narrow

    def _ids(self, latents: Sequence[int] | Tensor) -> Tensor:
        ids = torch.as_tensor(latents, dtype=torch.int64).reshape(-1)
        if not ids.numel() or int(ids.min()) < 0 or int(ids.max()) >= self.n_latents:
            raise ValueError(
                f"`latents` must be ids in [0, n_latents) with n_latents={self.n_latents}; got "
                f"{ids.tolist()[:5]}."
            )
        return ids


def _taken(tensor: Tensor, ids: Tensor | slice, axis: int) -> Tensor:
    """Return a part of a mapped tensor, and no more of it in memory."""
    if isinstance(ids, slice):
        return tensor[ids] if axis == 0 else tensor[:, ids]
    return tensor.index_select(axis, ids)


def _checked_architecture(path: Path, stored: Stored) -> str:
    """Return the architecture of a part."""
    name = stored.architecture
    if name == "matryoshka":
        name = "topk" if stored.config.get("selection") == "topk" else "batch_topk"
    known = name in BY_K | BY_ROW | {"transcoder"}
    if not known or stored.config.get("activation") == "groupmax":
        raise ValueError(
            f"`{path}` must hold a model that selects latents by k or by thresholds to be read "
            f"lazily; it holds a {stored.architecture}. Use sae.load."
        )
    if stored.folded:
        raise ValueError(
            f"`{path}` must hold weights as they are used to be read lazily; {stored.folded}. "
            "Convert them once: sae.save(sae.load(path), folder)."
        )
    return "topk" if name in BY_K else name
