"""TopK: the sparse autoencoder that keeps k latents by construction."""

from typing import Literal

import torch
from torch import Tensor

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    auxk_terms,
    geometric_median,
    scale_encoder,
    tied_start,
)
from sae.autoencoders.jumprelu import JumpReLU
from sae.row_norm import RowNorm, check_row_norm
from sparsecode import SparseCodes, decode_mse, encode_batch_topk, encode_topk, group_max
from sparsecode._checks import check_choice, check_float, check_int


class TopK(AbstractAutoencoder):
    """Keep the k largest pre-activations of each row.

    ``a = TopK(ReLU((x - b_dec) W_enc + b_enc))``, ``xhat = a W_dec + b_dec``; the loss is
    ``||x - xhat||^2`` plus `aux_coefficient` times the AuxK term on dead latents. The encoder
    starts as the transpose of the decoder (separate storage); decoder rows have unit norm.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    k : int, default=32
        Latents kept in each row. `encode` takes another k at inference.
    aux_coefficient : float, default=1/32
        Weight of the AuxK loss; 0 switches it off.
    k_aux : int or None, default=None
        Dead latents that may explain the residual; None means half of `n_features`.
    pre_bias : bool, default=True
        Whether ``b_dec`` is subtracted before encoding.
    activation : {"topk", "groupmax"}, default="topk"
        "groupmax" keeps the largest of each of k groups of neighbouring latents in their place.
    row_norm : {"none", "layer_norm", "unit_norm"}, default="none"
        Whether each row is first given mean 0 and deviation 1, or length ``sqrt(D)``. Codes and
        `decode` are then those of such rows; `forward` gives rows as they came.
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    References
    ----------
    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", eq. (1) and appendix A.
    arXiv:2406.04093. Differs from it in: the residual of AuxK is detached and bias-free, and
    the encoder is scaled at the start so that the first reconstructions have the right size.

    Examples
    --------
    >>> model = TopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> codes = model.encode(torch.ones(2, 8))
    >>> codes.shape, codes.values.shape
    ((2, 32), torch.Size([2, 4]))
    """

    unit_norm_decoder: bool = True

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        k: int = 32,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        pre_bias: bool = True,
        activation: Literal["topk", "groupmax"] = "topk",
        row_norm: RowNorm = "none",
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        self.aux_coefficient = check_float("aux_coefficient", aux_coefficient, low=0.0)
        self.k_aux = None if k_aux is None else check_int("k_aux", k_aux, low=1)
        self.pre_bias = bool(pre_bias)
        self.activation = check_choice("activation", activation, ("topk", "groupmax"))
        self.row_norm = check_row_norm(row_norm, n_features)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the k largest latents of each row, descending."""
        x = self._checked(x)
        return self._codes(self._rows(x), self.k if k is None else k).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"`` and, with dead latents, ``"auxk"``."""
        given, x, target = x, self._rows(x), self._rows(target, of=x)
        codes = self._codes(x, self.k)
        mse, recon = decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        auxk = auxk_terms(
            self,
            x - self.b_dec if self.pre_bias else x,
            target - recon.detach(),
            dead_latents,
            coefficient=self.aux_coefficient,
            k_aux=self.k_aux,
        )
        return Losses({"mse": mse, **auxk}, codes.detach(), self._restored(recon.detach(), given))

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Put ``b_dec`` at the geometric median and scale the encoder to the size of the data."""
        sample = self._rows(sample)
        self.b_dec.copy_(geometric_median(sample))
        scale_encoder(self, sample, self._codes(sample, self.k))

    @torch.no_grad()
    def to_jumprelu(self, sample: Tensor) -> JumpReLU:
        """Return the JumpReLU whose one threshold lets k latents of a row fire on average.

        What both keep has the same values. Which latents fire cannot be the same on every row, as
        a threshold does not know how many others are above it; evaluate what is lost.

        Parameters
        ----------
        sample : Tensor of shape (N, D)
            Rows of data, on which the mean number of active latents is k exactly.

        Returns
        -------
        JumpReLU
        """
        sample = self._rows(sample).reshape(-1, self.n_features)
        model = JumpReLU(
            n_features=self.n_features,
            n_latents=self.n_latents,
            target_l0=self.k,
            pre_bias=self.pre_bias,
            row_norm=self.row_norm,
        ).to(self.W_enc.device, self.W_enc.dtype)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(model, name).copy_(getattr(self, name))
        bias = self.b_dec if self.pre_bias else None
        kept = encode_batch_topk(sample, self.W_enc, self.b_enc, self.k, pre_bias=bias).values
        if kept.numel():
            smallest = kept.min()
            model.threshold.copy_(torch.nextafter(smallest, smallest.new_zeros(())))
        size = (sample - self.b_dec).double().square().sum(1).mean().sqrt()
        if size > 0:
            model.scale.copy_(size)
        return model.train(self.training)

    def _codes(self, x: Tensor, k: int) -> SparseCodes:
        if self.activation == "groupmax":
            centered = x - self.b_dec if self.pre_bias else x
            return group_max((centered @ self.W_enc + self.b_enc).relu(), k)
        pre_bias = self.b_dec if self.pre_bias else None
        return encode_topk(x, self.W_enc, self.b_enc, k, pre_bias=pre_bias)
