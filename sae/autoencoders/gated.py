"""Gated: one half of the encoder says which latents fire, the other how much."""

import torch
from torch import Tensor, nn

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    geometric_median,
    scale_encoder,
    tied_start,
)
from sae.autoencoders.jumprelu import JumpReLU
from sae.row_norm import RowNorm, check_row_norm
from sparsecode import SparseCodes, decode_mse, encode_batch_topk, encode_threshold
from sparsecode._checks import check_float, check_int


class Gated(AbstractAutoencoder):
    """Gate latents by the sign of one pre-activation, and size them by another with its weights.

    ``pi = (x - b_dec) W_enc + b_enc``, ``mag = ((x - b_dec) W_enc) exp(r_mag) + b_mag``,
    ``a = 1[pi > 0] ReLU(mag)``, ``xhat = a W_dec + b_dec``. The loss is ``||x - xhat||^2 + c s
    sum ReLU(pi) + ||x - ReLU(pi) sg(W_dec) - sg(b_dec)||^2``, where ``sg`` stops gradients and
    ``s^2`` is the mean squared norm of the centered data, so that ``c`` has no unit. The penalty
    shrinks the gate only, not the size.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    l1_coefficient : float, default=0.1
        The factor c; larger is sparser.
    warmup_share : float, default=0.1
        Share of the training over which c rises from 0.
    pre_bias : bool, default=True
        Whether ``b_dec`` is subtracted before encoding.
    row_norm : {"none", "layer_norm", "unit_norm"}, default="none"
        Whether each row is first given mean 0 and deviation 1, or length ``sqrt(D)``. Codes and
        `decode` are then those of such rows; `forward` gives rows as they came.
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    Notes
    -----
    ``encode(x, k=...)`` keeps the k largest of what is active.

    References
    ----------
    Rajamanoharan et al. (2024), "Improving Dictionary Learning with Gated Sparse Autoencoders".
    arXiv:2404.16014. Differs from it in: gates start where a quarter of `n_features` latents are
    active on a row, not half of all latents; units are those of the data.

    Examples
    --------
    >>> model = Gated(n_features=8, n_latents=32, seed=0)
    >>> model.encode(torch.eye(8)).shape
    (8, 32)
    """

    unit_norm_decoder: bool = True

    scale: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        l1_coefficient: float = 0.1,
        warmup_share: float = 0.1,
        pre_bias: bool = True,
        row_norm: RowNorm = "none",
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.l1_coefficient = check_float("l1_coefficient", l1_coefficient, low=0.0)
        self.warmup_share = check_float("warmup_share", warmup_share, low=0.0, high=1.0)
        self.pre_bias = bool(pre_bias)
        self.row_norm = check_row_norm(row_norm, n_features)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)
        self.r_mag = nn.Parameter(torch.zeros(n_latents))
        self.b_mag = nn.Parameter(torch.zeros(n_latents))
        self.register_buffer("scale", torch.ones(()))
        self.warmed = 1.0

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the latents whose gate is open; with `k` the k largest of them."""
        x = self._checked(x)
        codes = self._sized(self._gates(self._rows(x))).to(x.dtype)
        return codes if k is None else codes.truncate(k)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the error ``"mse"``, the penalty ``"l1"`` and the error of the gates ``"aux"``."""
        given, x, target = x, self._rows(x), self._rows(target, of=x)
        gates = self._gates(x)
        codes = self._sized(gates)
        mse, recon = decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        # Only the gates learn from their own reconstruction, the decoder does not.
        aux, _ = decode_mse(gates, self.W_dec.detach(), target, bias=self.b_dec.detach())
        factor = self.warmed * self.l1_coefficient * self.scale / max(1, len(x))
        terms = {"mse": mse, "l1": factor * gates.values.sum(), "aux": aux}
        return Losses(terms, codes.detach(), self._restored(recon.detach(), given))

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Center, scale the encoder, and open the gates of the largest pre-activations only."""
        sample = self._rows(sample)
        self.b_dec.copy_(geometric_median(sample))
        size = torch.linalg.vector_norm(sample - self.b_dec, dim=1).double().square().mean().sqrt()
        if size > 0:
            self.scale.copy_(size)
        bias = self.b_dec if self.pre_bias else None
        l0 = min(max(1.0, self.n_features / 4), self.n_latents)
        codes = encode_batch_topk(sample, self.W_enc, self.b_enc, l0, pre_bias=bias)
        factor = scale_encoder(self, sample, codes)
        if codes.values.numel():
            self.b_enc.fill_(-0.999 * factor * codes.values.min())

    def set_progress(self, progress: float) -> None:
        """Let the penalty rise over the first `warmup_share` of the training."""
        self.warmed = min(1.0, progress / self.warmup_share) if self.warmup_share > 0 else 1.0

    @torch.no_grad()
    def to_jumprelu(self) -> JumpReLU:
        """Return the JumpReLU with the same codes: shared weights make a gate a threshold.

        ``W_enc exp(r_mag)``, ``b_mag`` and ``threshold = max(0, b_mag - exp(r_mag) b_enc)``.

        Returns
        -------
        JumpReLU
        """
        model = JumpReLU(
            n_features=self.n_features,
            n_latents=self.n_latents,
            pre_bias=self.pre_bias,
            row_norm=self.row_norm,
        ).to(self.W_enc.device, self.W_enc.dtype)
        gain = self.r_mag.exp()
        model.W_enc.copy_(self.W_enc * gain)
        model.b_enc.copy_(self.b_mag)
        model.threshold.copy_((self.b_mag - gain * self.b_enc).clamp(min=0))
        model.W_dec.copy_(self.W_dec)
        model.b_dec.copy_(self.b_dec)
        model.scale.copy_(self.scale)
        return model.train(self.training)

    def _gates(self, x: Tensor) -> SparseCodes:
        """Return ``ReLU(pi)``."""
        bias = self.b_dec if self.pre_bias else None
        return encode_threshold(x, self.W_enc, self.b_enc, 0.0, pre_bias=bias)

    def _sized(self, gates: SparseCodes) -> SparseCodes:
        """Return ``a``, which has entries where the gates are open only."""
        ids = gates.indices
        plain = gates.values - self.b_enc[ids]
        return gates.with_values((plain * self.r_mag.exp()[ids] + self.b_mag[ids]).relu())
