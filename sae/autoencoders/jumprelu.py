"""JumpReLU: a threshold for each latent, learned through a straight-through estimator."""

import torch
from torch import Tensor, nn

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    geometric_median,
    scale_encoder,
    tied_start,
)
from sae.row_norm import RowNorm, check_row_norm
from sparsecode import SparseCodes, decode_mse, encode_batch_topk, encode_threshold
from sparsecode._checks import check_float, check_int

TARGET_COEFFICIENT = 10.0  # holds L0 within a few per cent of the target
FREE_COEFFICIENT = 1e-3


class JumpReLU(AbstractAutoencoder):
    """Keep the pre-activations above a learned threshold of their latent.

    ``z = (x - b_dec) W_enc + b_enc``, ``a = z * 1[z > threshold]``, ``xhat = a W_dec + b_dec``. The
    loss is ``||x - xhat||^2 + c s^2 (L0 / target_l0 - 1)^2``, or ``+ c s^2 L0`` without a target,
    with L0 the mean number of active latents and ``s^2`` the mean squared norm of the centered
    data, so that ``c`` has no unit. Thresholds learn from the pre-activations within half a
    bandwidth of them.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    target_l0 : float or None, default=32
        Mean number of active latents to steer to; None leaves it to `l0_coefficient`. More than
        `n_latents` counts as `n_latents`.
    l0_coefficient : float or None, default=None
        The factor c; None means 10 with a target and 0.001 without.
    bandwidth : float, default=0.02
        Width of the window around a threshold, in units of ``s``.
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
    The estimator is ``d a / d threshold = -(threshold / e) 1[|z - threshold| < e / 2]`` and
    ``d L0 / d threshold = -(1 / e) 1[|z - threshold| < e / 2]``, ``e`` the bandwidth; L0 gives
    no gradient to ``z``. A threshold below 0, where a step may take it, counts as 0.
    ``encode(x, k=...)`` keeps the k largest of what is active.

    References
    ----------
    Rajamanoharan et al. (2024), "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU
    Sparse Autoencoders". arXiv:2407.14435. Differs from it in: the threshold itself is the
    parameter, not its logarithm, which hardly moves under Adam; it starts where the target holds;
    units are those of the data; ``b_dec`` is subtracted first. The loss with a target was first
    seen in code at saprmarks/dictionary_learning, trainers/jumprelu.py (described, not copied).

    Examples
    --------
    >>> model = JumpReLU(n_features=8, n_latents=32, target_l0=4, seed=0)
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> model.initialize(x)
    >>> float(model.encode(x).n_active.float().mean())
    4.0
    """

    unit_norm_decoder: bool = True

    scale: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        target_l0: float | None = 32,
        l0_coefficient: float | None = None,
        bandwidth: float = 0.02,
        warmup_share: float = 0.1,
        pre_bias: bool = True,
        row_norm: RowNorm = "none",
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        if target_l0 is not None:
            target_l0 = check_float("target_l0", target_l0, low=0.0, open_low=True)
        self.target_l0 = target_l0
        if l0_coefficient is not None:
            l0_coefficient = check_float("l0_coefficient", l0_coefficient, low=0.0)
        self.l0_coefficient = l0_coefficient
        self.bandwidth = check_float("bandwidth", bandwidth, low=0.0, open_low=True)
        self.warmup_share = check_float("warmup_share", warmup_share, low=0.0, high=1.0)
        self.pre_bias = bool(pre_bias)
        self.row_norm = check_row_norm(row_norm, n_features)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)
        self.threshold = nn.Parameter(torch.zeros(n_latents))
        self.register_buffer("scale", torch.ones(()))
        self.warmed = 1.0

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the latents above their thresholds; with `k` the k largest of them."""
        x = self._checked(x)
        theta = self.threshold.detach().clamp(min=0)
        codes = self._above(self._rows(x), theta).to(x.dtype)
        return codes if k is None else codes.truncate(k)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"`` and the penalty on the number of latents ``"l0"``."""
        given, x, target = x, self._rows(x), self._rows(target, of=x)
        with torch.no_grad():
            self.threshold.clamp_(min=0)  # a step may have taken it below
        width = float(self.bandwidth * self.scale)
        # What is active or within the window: all that has a value or a gradient.
        near = self._above(x, self.threshold.detach() - width / 2)
        theta = self.threshold[near.indices]
        values, active = _Jump.apply(near.values, theta, width)
        codes = near.with_values(values)
        mse, recon = decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        penalty = self._penalty(active.sum() / max(1, len(x)))
        return Losses(
            {"mse": mse, "l0": penalty}, codes.detach(), self._restored(recon.detach(), given)
        )

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Center, scale the encoder, and set all thresholds so that the target holds."""
        sample = self._rows(sample)
        self.b_dec.copy_(geometric_median(sample))
        size = torch.linalg.vector_norm(sample - self.b_dec, dim=1).double().square().mean().sqrt()
        if size > 0:
            self.scale.copy_(size)
        bias = self.b_dec if self.pre_bias else None
        l0 = self._target() or max(1.0, self.n_features / 4)
        codes = encode_batch_topk(
            sample, self.W_enc, self.b_enc, min(l0, self.n_latents), pre_bias=bias
        )
        factor = scale_encoder(self, sample, codes)
        if codes.values.numel():
            self.threshold.fill_(0.999 * factor * codes.values.min())  # the smallest fires too

    def set_progress(self, progress: float) -> None:
        """Let the penalty rise over the first `warmup_share` of the training."""
        self.warmed = min(1.0, progress / self.warmup_share) if self.warmup_share > 0 else 1.0

    def _above(self, x: Tensor, theta: Tensor) -> SparseCodes:
        bias = self.b_dec if self.pre_bias else None
        return encode_threshold(x, self.W_enc, self.b_enc, theta, pre_bias=bias)

    def _target(self) -> float | None:
        return None if self.target_l0 is None else min(self.target_l0, self.n_latents)

    def _penalty(self, l0: Tensor) -> Tensor:
        target = self._target()
        excess = l0 if target is None else (l0 / target - 1.0).square()
        coefficient = self.l0_coefficient
        if coefficient is None:
            coefficient = FREE_COEFFICIENT if target is None else TARGET_COEFFICIENT
        return self.warmed * coefficient * self.scale.square() * excess


class _Jump(torch.autograd.Function):
    """``z 1[z > theta]`` and ``1[z > theta]`` with the straight-through gradients of the paper."""

    @staticmethod
    def forward(ctx, z: Tensor, theta: Tensor, width: float) -> tuple[Tensor, Tensor]:
        active = z > theta
        ctx.save_for_backward(z, theta, active)
        ctx.width = width
        return torch.where(active, z, 0.0), active.to(z.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_values, grad_active):
        z, theta, active = ctx.saved_tensors
        window = (z - theta).abs() < ctx.width / 2
        to_theta = torch.where(window, -(theta * grad_values + grad_active) / ctx.width, 0.0)
        return torch.where(active, grad_values, 0.0), to_theta, None
