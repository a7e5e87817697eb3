"""BatchTopK: k active latents a row on average, shared out over the batch."""

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
from sae.autoencoders.jumprelu import JumpReLU
from sae.row_norm import RowNorm, check_row_norm
from sparsecode import (
    SparseCodes,
    decode_mse,
    encode_batch_topk,
    encode_threshold,
    encode_topk,
)
from sparsecode._checks import check_float, check_int


class BatchTopK(AbstractAutoencoder):
    """Keep the ``int(k * N)`` largest pre-activations of a batch of N rows.

    ``a = BatchTopK(ReLU((x - b_dec) W_enc + b_enc))``, ``xhat = a W_dec + b_dec``; the loss is
    ``||x - xhat||^2`` plus AuxK. In training rows compete, so that difficult ones get more
    latents. At inference (`eval`) a row does not depend on its batch: latents above one `threshold`
    fire, the average over training of the smallest value kept.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    k : float, default=32
        Latents kept on a row on average, in (0, n_latents].
    threshold_decay : float, default=0.9
        Of the running average of the threshold, in [0, 1).
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

    Notes
    -----
    ``encode`` in training mode selects over all leading axes of its input together. ``encode(x,
    k=...)`` keeps the k largest of each row in either mode. The mean number of active latents
    at inference follows the data: rows unlike those of the training may have more or fewer.

    References
    ----------
    Bussmann, Leask & Nanda (2024), "BatchTopK Sparse Autoencoders".
    arXiv:2412.06410. Differs from it in: the threshold is an average that forgets, corrected for
    its start, since early batches come from another model.

    Examples
    --------
    >>> model = BatchTopK(n_features=8, n_latents=32, k=1.5, seed=0).train()
    >>> int(model.encode(torch.eye(8)).n_active.sum())
    12
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
        threshold_decay: float = 0.9,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        pre_bias: bool = True,
        row_norm: RowNorm = "none",
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.k = check_float("k", k, low=0.0, open_low=True, high=n_latents)
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
        """Return latents above the threshold, or in training the largest of the batch.

        With `k` the k largest of each row.
        """
        x = self._checked(x)
        rows = self._rows(x)
        bias = self.b_dec if self.pre_bias else None
        if k is not None:
            codes = encode_topk(rows, self.W_enc, self.b_enc, k, pre_bias=bias)
        elif self.training:
            codes = encode_batch_topk(rows, self.W_enc, self.b_enc, self.k, pre_bias=bias)
        else:
            codes = encode_threshold(rows, self.W_enc, self.b_enc, self.threshold, pre_bias=bias)
        return codes.to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"`` and, with dead latents, ``"auxk"``.

        In training mode the threshold follows.
        """
        given, x, target = x, self._rows(x), self._rows(target, of=x)
        bias = self.b_dec if self.pre_bias else None
        codes = encode_batch_topk(x, self.W_enc, self.b_enc, self.k, pre_bias=bias)
        if self.training:
            follow_threshold(self.threshold, self.n_averaged, codes, self.threshold_decay)
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
        """Center, scale the encoder to the data, and take a first threshold from the sample."""
        sample = self._rows(sample)
        self.b_dec.copy_(geometric_median(sample))
        bias = self.b_dec if self.pre_bias else None
        codes = encode_batch_topk(sample, self.W_enc, self.b_enc, self.k, pre_bias=bias)
        factor = scale_encoder(self, sample, codes)
        if codes.values.numel():
            self.threshold.copy_(0.999 * factor * codes.values.min())  # the smallest fires too

    @torch.no_grad()
    def to_jumprelu(self) -> JumpReLU:
        """Return the JumpReLU with the codes of inference: the one threshold for every latent.

        Returns
        -------
        JumpReLU
            Its ``scale`` is 1; set it before training further.
        """
        model = JumpReLU(
            n_features=self.n_features,
            n_latents=self.n_latents,
            target_l0=self.k,
            pre_bias=self.pre_bias,
            row_norm=self.row_norm,
        ).to(self.W_enc.device, self.W_enc.dtype)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(model, name).copy_(getattr(self, name))
        model.threshold.fill_(float(self.threshold))
        return model.train(self.training)
