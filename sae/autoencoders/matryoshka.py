"""Matryoshka: nested dictionaries, each prefix of the latents an autoencoder of its own."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    auxk_terms,
    follow_threshold,
    geometric_median,
    scale_encoder,
    tied_start,
)
from sae.row_norm import RowNorm, check_row_norm
from sparsecode import SparseCodes, decode, encode_batch_topk, encode_threshold, encode_topk
from sparsecode._checks import check_choice, check_float, check_int

LEVELS = 5  # of the default prefixes: F / 16, F / 8, ..., F


class Matryoshka(AbstractAutoencoder):
    """Let the first latents reconstruct alone, at several sizes of the dictionary.

    One selection over the whole dictionary gives ``a``; with ``xhat_m`` the reconstruction from the
    latents below ``m``, the loss is ``mean over prefixes m of ||x - xhat_m||^2`` plus AuxK on
    what the whole leaves over. Early latents stay general, later ones refine them.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    k : float, default=32
        Latents kept on a row: on average with "batch_topk", on every row (an int) with "topk".
    prefixes : sequence of int or None, default=None
        Sizes of the nested dictionaries, different numbers in [1, n_latents]; n_latents is added if
        it is missing. None means 1/16, 1/8, 1/4, 1/2 and all of the latents.
    n_sampled : int or None, default=None
        Draw this many prefixes anew in each step, the last of them the whole, small ones more
        often; equal ones count once. In place of `prefixes`.
    weights : sequence of float or None, default=None
        Weight of each of `prefixes`, the smallest first; None weighs all by one over their number.
    selection : {"batch_topk", "topk"}, default="batch_topk"
        As in `BatchTopK`, with its threshold at inference, or as in `TopK`.
    threshold_decay : float, default=0.9
        Of the running average of the threshold.
    aux_coefficient : float, default=1/32
        Weight of the AuxK loss; 0 switches it off.
    k_aux : int or None, default=None
        Dead latents that may explain the residual; None means half of `n_features`.
    pre_bias : bool, default=True
        Whether ``b_dec`` is subtracted before encoding.
    row_norm : {"none", "layer_norm", "unit_norm"}, default="none"
        Whether each row is first given mean 0 and deviation 1, or length ``sqrt(D)``. Codes and
        `decode` are then those of such rows; `forward` gives rows as they came.
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    References
    ----------
    Bussmann, Nabeshima, Karvonen & Nanda (2025), "Learning Multi-Level Features with Matryoshka
    Sparse Autoencoders". arXiv:2503.17547. Differs from it in: the mean over the prefixes, not
    their sum, so that AuxK weighs the same for any number of them. Sampled prefixes were first seen
    in code at noanabeshima/matryoshka-saes (described, not copied).

    Examples
    --------
    >>> model = Matryoshka(n_features=8, n_latents=32, k=4, prefixes=[8], seed=0).eval()
    >>> model.prefixes
    [8, 32]
    >>> codes = model.first_latents(model.encode(torch.eye(8), k=6), 8)
    >>> int(codes.indices.max()) < 8
    True
    """

    unit_norm_decoder: bool = True

    threshold: Tensor
    n_averaged: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        k: float = 32,
        prefixes: Sequence[int] | None = None,
        n_sampled: int | None = None,
        weights: Sequence[float] | None = None,
        selection: Literal["batch_topk", "topk"] = "batch_topk",
        threshold_decay: float = 0.9,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        pre_bias: bool = True,
        row_norm: RowNorm = "none",
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.selection = check_choice("selection", selection, ("batch_topk", "topk"))
        if selection == "topk":
            self.k: float = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        else:
            self.k = check_float("k", k, low=0.0, open_low=True, high=n_latents)
        self.n_sampled = None if n_sampled is None else check_int("n_sampled", n_sampled, low=1)
        if n_sampled is not None and (prefixes is not None or weights is not None):
            raise ValueError(
                "`n_sampled` draws its own prefixes; `prefixes` and `weights` must be None with it."
            )
        self.prefixes = None if n_sampled is not None else _checked_prefixes(prefixes, n_latents)
        self.weights = None if weights is None else _checked_weights(weights, self.prefixes)
        self.threshold_decay = check_float("threshold_decay", threshold_decay, low=0.0, high=0.9999)
        self.aux_coefficient = check_float("aux_coefficient", aux_coefficient, low=0.0)
        self.k_aux = None if k_aux is None else check_int("k_aux", k_aux, low=1)
        self.pre_bias = bool(pre_bias)
        self.row_norm = check_row_norm(row_norm, n_features)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the codes over the whole dictionary, as `BatchTopK` or `TopK` would.

        With `k` the k largest of each row.
        """
        x = self._checked(x)
        rows = self._rows(x)
        bias = self.b_dec if self.pre_bias else None
        if k is not None:
            codes = encode_topk(rows, self.W_enc, self.b_enc, k, pre_bias=bias)
        elif self.training or self.selection == "topk":
            codes = self._training_codes(rows)
        else:
            codes = encode_threshold(rows, self.W_enc, self.b_enc, self.threshold, pre_bias=bias)
        return codes.to(x.dtype)

    def first_latents(self, codes: SparseCodes, n_latents: int) -> SparseCodes:
        """Return the codes without the latents from `n_latents` on; the width stays.

        Parameters
        ----------
        codes : SparseCodes of shape (..., F)
        n_latents : int in [0, F]
            Size of the nested dictionary to decode with.

        Returns
        -------
        SparseCodes of shape (..., F)
            Ragged rows.
        """
        bounds = {"low": 0, "high": self.n_latents, "high_name": "n_latents of the model"}
        return _between(codes, 0, check_int("n_latents", n_latents, **bounds))

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the error over the prefixes ``"mse"`` and, with dead latents, ``"auxk"``."""
        given, x, target = x, self._rows(x), self._rows(target, of=x)
        codes = self._training_codes(x)
        if self.training and self.selection == "batch_topk":
            follow_threshold(self.threshold, self.n_averaged, codes, self.threshold_decay)
        mse, recon = self._error(codes, target)
        auxk = auxk_terms(
            self,
            x - self.b_dec if self.pre_bias else x,
            target - recon,
            dead_latents,
            coefficient=self.aux_coefficient,
            k_aux=self.k_aux,
        )
        return Losses({"mse": mse, **auxk}, codes.detach(), self._restored(recon, given))

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Center, scale the encoder to the data, and take a first threshold from the sample."""
        sample = self._rows(sample)
        self.b_dec.copy_(geometric_median(sample))
        codes = self._training_codes(sample)
        factor = scale_encoder(self, sample, codes)
        if self.selection == "batch_topk" and codes.values.numel():
            self.threshold.copy_(0.999 * factor * codes.values.min())  # the smallest fires too

    def _training_codes(self, x: Tensor) -> SparseCodes:
        bias = self.b_dec if self.pre_bias else None
        if self.selection == "topk":
            return encode_topk(x, self.W_enc, self.b_enc, int(self.k), pre_bias=bias)
        return encode_batch_topk(x, self.W_enc, self.b_enc, self.k, pre_bias=bias)

    def _error(self, codes: SparseCodes, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss over the prefixes and the whole reconstruction.

        Every entry is decoded once: reconstructions grow from prefix to prefix.
        """
        prefixes = self._sampled() if self.prefixes is None else self.prefixes
        weights = self.weights or [1.0 / len(prefixes)] * len(prefixes)
        codes, recon = codes.to_ragged(), self.b_dec
        loss, first = target.new_zeros(()), 0
        for last, weight in zip(prefixes, weights, strict=True):
            recon = recon + decode(_between(codes, first, last), self.W_dec)
            loss = loss + weight / max(1, len(target)) * (target - recon).square().sum()
            first = last
        return loss, recon.detach()

    def _sampled(self) -> list[int]:
        """Draw prefixes with density proportional to ``m ** -1.5``, the whole always among them."""
        assert self.n_sampled is not None
        uniform = torch.rand(self.n_sampled - 1)
        edge = self.n_latents**-0.5  # inverse of the Pareto(1/2) distribution, cut at F
        drawn = (1.0 - uniform * (1.0 - edge)).pow(-2.0).long().clamp(1, self.n_latents)
        return sorted({*drawn.tolist(), self.n_latents})


def _between(codes: SparseCodes, first: int, last: int) -> SparseCodes:
    """Return the entries of the latents ``first:last``, as ragged rows of the same width."""
    codes = codes.to_ragged()
    chosen = ((codes.indices >= first) & (codes.indices < last)).nonzero().flatten()
    counts = torch.bincount(codes.row_ids()[chosen], minlength=codes.n_rows)
    crow = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return SparseCodes(
        codes.values[chosen],
        codes.indices[chosen],
        codes.width,
        crow=crow,
        batch_shape=codes.shape[:-1],
    )


def _checked_prefixes(prefixes: Sequence[int] | None, n_latents: int) -> list[int]:
    if prefixes is None:
        return sorted({max(1, n_latents >> level) for level in range(LEVELS)})
    bounds = {"low": 1, "high": n_latents, "high_name": "n_latents"}
    checked = [check_int("prefixes", prefix, **bounds) for prefix in prefixes]
    if len(set(checked)) < len(checked):
        raise ValueError(f"`prefixes` must be different numbers; got {checked}.")
    return sorted({*checked, n_latents})


def _checked_weights(weights: Sequence[float], prefixes: list[int] | None) -> list[float]:
    checked = [check_float("weights", weight, low=0.0) for weight in weights]
    if prefixes is None or len(checked) != len(prefixes):
        raise ValueError(
            f"`weights` must have one number for each of the prefixes {prefixes}; "
            f"got {len(checked)}."
        )
    return checked
