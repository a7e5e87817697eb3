"""ReLU: the sparse autoencoder with an L1 penalty, in its two usual forms."""

from typing import Literal

import torch
from torch import Tensor

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    geometric_median,
    scale_encoder,
    tied_start,
)
from sae.row_norm import RowNorm, check_row_norm
from sparsecode import SparseCodes, decode_mse, encode_batch_topk, encode_threshold
from sparsecode._checks import check_choice, check_float, check_int

FREE_NORM = 0.1  # of decoder rows at the start, where they may grow


class ReLU(AbstractAutoencoder):
    """Keep what is positive, and pay for its sum.

    ``a = ReLU((x - b_dec) W_enc + b_enc)``, ``xhat = a W_dec + b_dec``. The loss is
    ``||x - xhat||^2 + c s sum_i a_i`` with decoder rows of unit norm, or
    ``||x - xhat||^2 + c s sum_i a_i ||W_dec_i||`` with free ones; ``s^2`` is the mean squared norm
    of the centered data, so that ``c`` has no unit.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    l1_coefficient : float, default=0.1
        The factor c; larger is sparser.
    variant : {"decoder_norm", "unit_norm"}, default="decoder_norm"
        Whether the penalty weighs each latent by the norm of its decoder row, or these norms are 1.
    warmup_share : float, default=0.05
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
    The penalty shrinks codes as well as it thins them; `JumpReLU` and `Gated` do not have this
    defect. ``encode(x, k=...)`` keeps the k largest of what is active.

    References
    ----------
    Bricken et al. (2023), "Towards Monosemanticity" ("unit_norm"); Conerly et al. (2024), "Update
    on how we train SAEs", Transformer Circuits, April 2024 ("decoder_norm"). Differs from them in:
    biases start where a quarter of `n_features` latents are active on a row, not half of all; units
    are those of the data; dead latents are not drawn anew.

    Examples
    --------
    >>> model = ReLU(n_features=8, n_latents=32, seed=0)
    >>> bool((model.encode(torch.eye(8)).values > 0).all())
    True
    """

    scale: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        l1_coefficient: float = 0.1,
        variant: Literal["decoder_norm", "unit_norm"] = "decoder_norm",
        warmup_share: float = 0.05,
        pre_bias: bool = True,
        row_norm: RowNorm = "none",
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.l1_coefficient = check_float("l1_coefficient", l1_coefficient, low=0.0)
        self.variant = check_choice("variant", variant, ("decoder_norm", "unit_norm"))
        self.unit_norm_decoder = variant == "unit_norm"
        self.warmup_share = check_float("warmup_share", warmup_share, low=0.0, high=1.0)
        self.pre_bias = bool(pre_bias)
        self.row_norm = check_row_norm(row_norm, n_features)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)
        if not self.unit_norm_decoder:
            self.W_dec.data.mul_(FREE_NORM)
        self.register_buffer("scale", torch.ones(()))
        self.warmed = 1.0

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the positive pre-activations; with `k` the k largest of them."""
        x = self._checked(x)
        codes = self._positive(self._rows(x)).to(x.dtype)
        return codes if k is None else codes.truncate(k)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"`` and the penalty ``"l1"``."""
        given, x, target = x, self._rows(x), self._rows(target, of=x)
        codes = self._positive(x)
        mse, recon = decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        paid = codes.values
        if not self.unit_norm_decoder:
            paid = paid * torch.linalg.vector_norm(self.W_dec, dim=1)[codes.indices]
        factor = self.warmed * self.l1_coefficient * self.scale / max(1, len(x))
        return Losses(
            {"mse": mse, "l1": factor * paid.sum()},
            codes.detach(),
            self._restored(recon.detach(), given),
        )

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Center, scale the encoder, and let the largest pre-activations through only."""
        sample = self._rows(sample)
        self.b_dec.copy_(geometric_median(sample))
        size = torch.linalg.vector_norm(sample - self.b_dec, dim=1).double().square().mean().sqrt()
        if size > 0:
            self.scale.copy_(size)
        bias = self.b_dec if self.pre_bias else None
        l0 = min(max(1.0, self.n_features / 4), self.n_latents)
        codes = encode_batch_topk(sample, self.W_enc, self.b_enc, l0, pre_bias=bias)
        if codes.values.numel():
            self.b_enc.fill_(-0.999 * codes.values.min())
        self.b_enc.mul_(scale_encoder(self, sample, self._positive(sample)))

    def set_progress(self, progress: float) -> None:
        """Let the penalty rise over the first `warmup_share` of the training."""
        self.warmed = min(1.0, progress / self.warmup_share) if self.warmup_share > 0 else 1.0

    @torch.no_grad()
    def fold_decoder_norms(self) -> None:
        """Give decoder rows unit norm and codes the norms they had; reconstructions stay.

        Rows of norm 0 stay as they are.
        """
        norms = torch.linalg.vector_norm(self.W_dec, dim=1)
        norms = torch.where(norms > 0, norms, 1.0)
        self.W_enc.mul_(norms)
        self.b_enc.mul_(norms)
        self.W_dec.div_(norms[:, None])

    def _positive(self, x: Tensor) -> SparseCodes:
        bias = self.b_dec if self.pre_bias else None
        return encode_threshold(x, self.W_enc, self.b_enc, 0.0, pre_bias=bias)
