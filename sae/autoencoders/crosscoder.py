"""Crosscoder: one code for the activations of several layers or models."""

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
    tied_start,
)
from sparsecode import (
    SparseCodes,
    decode_mse,
    encode_batch_topk,
    encode_threshold,
    encode_topk,
)
from sparsecode._checks import check_choice, check_float, check_int


class Crosscoder(AbstractAutoencoder):
    """Encode the activations at several hookpoints together, and decode to each of them.

    ``a = act(sum_l x_l W_enc^l + b_enc)``, ``xhat_l = a W_dec^l + b_dec^l``; the loss is
    ``sum_l ||x_l - xhat_l||^2`` plus AuxK. Rows are the activations of all hookpoints side by
    side, as `sae.cache.join` gives them, and so are the columns of the decoder. Latents compete by
    ``a_i sum_l ||W_dec_i^l||``, what they contribute over all hookpoints.

    Parameters
    ----------
    n_features : int
        Columns of a row, of all hookpoints together.
    n_latents : int
        Width F of the code.
    widths : sequence of int or None, default=None
        Columns of each hookpoint; they sum to `n_features`. None means one hookpoint.
    k : float, default=32
        Latents kept on a row on average; an int with ``selection="topk"``.
    selection : {"batch_topk", "topk"}, default="batch_topk"
        Whether k is shared out over the batch in training, with a threshold at inference, or kept
        on every row.
    threshold_decay : float, default=0.9
        Of the running average of the threshold, in [0, 1).
    aux_coefficient : float, default=1/32
        Weight of the AuxK loss; 0 switches it off.
    k_aux : int or None, default=None
        Dead latents that may explain the residual; None means half of `n_features`.
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    Notes
    -----
    Hookpoints with larger activations weigh more in the loss: train with
    ``normalize="mean_square"`` to have them on one scale. ``feature_scale`` keeps that scale, in
    which decoder norms are measured, when it is folded into the weights. Rows of the whole
    decoder have unit norm; that is no restriction, as codes and encoder can take any norm over.

    References
    ----------
    Lindsey et al. (2024), "Sparse Crosscoders for Cross-Layer Features and Model Diffing",
    Transformer Circuits. Minder et al. (2025), "Robustly identifying concepts introduced during
    chat fine-tuning using crosscoders" (BatchTopK). arXiv:2504.02922. Differs from the former in:
    a number of latents in the place of the L1 penalty; the start of ``b_dec`` at the geometric
    median, and of ``b_enc`` to go with it.

    Examples
    --------
    >>> model = Crosscoder(n_features=12, widths=[8, 4], n_latents=32, k=4, seed=0).train()
    >>> model.encode(torch.eye(12)).shape, model.decoder_norms().shape
    ((12, 32), torch.Size([2, 32]))
    """

    unit_norm_decoder: bool = True

    threshold: Tensor
    n_averaged: Tensor
    feature_scale: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        widths: Sequence[int] | None = None,
        k: float = 32,
        selection: Literal["batch_topk", "topk"] = "batch_topk",
        threshold_decay: float = 0.9,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.widths = [n_features] if widths is None else [int(width) for width in widths]
        if sum(self.widths) != n_features or min(self.widths, default=0) < 1:
            raise ValueError(
                f"`widths` must be positive and sum to n_features = {n_features}; got "
                f"{self.widths}."
            )
        self.row_blocks = tuple(self.widths)
        self.selection = check_choice("selection", selection, ("batch_topk", "topk"))
        if selection == "topk":
            self.k: float = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        else:
            self.k = check_float("k", k, low=0.0, open_low=True, high=n_latents)
        self.threshold_decay = check_float("threshold_decay", threshold_decay, low=0.0, high=0.9999)
        self.aux_coefficient = check_float("aux_coefficient", aux_coefficient, low=0.0)
        self.k_aux = None if k_aux is None else check_int("k_aux", k_aux, low=1)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("n_averaged", torch.zeros((), dtype=torch.int64))
        self.register_buffer("feature_scale", torch.ones(n_features))

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the latents that contribute most; with `k` the k of each row that do."""
        x = self._checked(x)
        rows, norms = x.to(self.W_enc.dtype), self._norms()
        weights = self._weighted(norms)
        if k is not None:
            codes = encode_topk(rows, *weights, k)
        elif self.training or self.selection == "topk":
            codes = self._selected(rows, norms)
        else:
            codes = encode_threshold(rows, *weights, self.threshold)
        return _divided(codes, norms).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"`` and, with dead latents, ``"auxk"``.

        In training mode the threshold follows.
        """
        x, target = (self._checked(part).to(self.W_enc.dtype) for part in (x, target))
        norms = self._norms()
        contributions = self._selected(x, norms)
        if self.training and self.selection == "batch_topk":
            follow_threshold(self.threshold, self.n_averaged, contributions, self.threshold_decay)
        codes = _divided(contributions, norms)
        mse, recon = decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        auxk = auxk_terms(
            self,
            x,
            target - recon.detach(),
            dead_latents,
            coefficient=self.aux_coefficient,
            k_aux=self.k_aux,
        )
        return Losses({"mse": mse, **auxk}, codes.detach(), recon.detach())

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Center, scale the encoder to the data, and take a first threshold from the sample."""
        sample = self._checked(sample).to(self.W_enc.dtype)
        self.b_dec.copy_(geometric_median(sample))
        self.b_enc.copy_(-(self.b_dec @ self.W_enc))
        first = _divided(self._selected(sample, self._norms()), self._norms())
        recon, centered = self.decode(first) - self.b_dec, sample - self.b_dec
        energy = recon.double().square().sum()
        if energy > 0:
            factor = (recon.double() * centered.double()).sum() / energy
            self.W_enc.mul_(float(factor.clamp(min=1e-3)))
            self.b_enc.mul_(float(factor.clamp(min=1e-3)))
        kept = self._selected(sample, self._norms()).values
        if self.selection == "batch_topk" and kept.numel():
            self.threshold.copy_(0.999 * kept.min())  # the smallest fires too

    @torch.no_grad()
    def decoder_norms(self) -> Tensor:
        """Return the norm of each latent's decoder row at each hookpoint, on the training's scale.

        A latent whose norm is near zero at all hookpoints but one belongs to that one alone.

        Returns
        -------
        Tensor of shape (L, F)
        """
        parts = (self.W_dec * self.feature_scale).split(self.widths, dim=1)
        return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts])

    def _norms(self) -> Tensor:
        """Return the weight of each latent in the selection; positive."""
        return self.decoder_norms().sum(0).clamp(min=1e-30)

    def _weighted(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoder whose pre-activations are contributions."""
        return self.W_enc * norms, self.b_enc * norms

    def _selected(self, x: Tensor, norms: Tensor) -> SparseCodes:
        weights = self._weighted(norms)
        if self.selection == "topk":
            return encode_topk(x, *weights, int(self.k))
        return encode_batch_topk(x, *weights, self.k)


def _divided(contributions: SparseCodes, norms: Tensor) -> SparseCodes:
    """Return codes from their contributions."""
    return contributions.with_values(contributions.values / norms[contributions.indices])
