"""KSparse: the k-sparse autoencoder of 2013, linear, tied, with a schedule for k."""

from typing import Literal

import torch
from torch import Tensor, nn

from sae.autoencoders.base import AbstractAutoencoder, Losses, latent_columns, random_rows
from sparsecode import SparseCodes, decode_mse, encode_topk
from sparsecode._checks import check_choice, check_float, check_int

SMALL = 0.01  # standard deviation of the weights in the paper's start


class KSparse(AbstractAutoencoder):
    """Keep the k largest signed activations of a linear, tied encoder.

    ``z = x W + b_enc``; ``a`` keeps the k largest values of ``z`` (not magnitudes, no ReLU);
    ``xhat = a W^T + b_dec``. In training k falls linearly from `k_start` to `k`, which keeps units
    from dying early; at inference ``alpha * k`` units are kept.

    Parameters
    ----------
    n_features : int
    n_latents : int
    k : int, default=32
        Units kept in training once the schedule has ended.
    k_start : int or None, default=None
        Units kept at the start; None means no schedule.
    anneal_share : float, default=0.5
        Share of the training over which k falls.
    alpha : float, default=1.0
        At inference ``round(alpha * k)`` units are kept.
    start : {"data", "small"}, default="data"
        "data": rows of unit norm, ``b_dec`` at the mean of the data and ``b_enc`` so that units
        explain deviations from it. "small": the paper's, weights of deviation 0.01 and biases of 0.
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    Notes
    -----
    From "small" and without `k_start`, most units die when k is small: the first to win go on
    winning. On images the units that remain with a schedule are the better features; from "data"
    few die with or without one, and means that are large do no harm.

    References
    ----------
    Makhzani & Frey (2013), "k-Sparse Autoencoders", algorithm 1. arXiv:1312.5663. Differs from it
    in: the default `start`.

    Examples
    --------
    >>> model = KSparse(n_features=8, n_latents=32, k=4, alpha=2.0, seed=0).eval()
    >>> model.encode(torch.ones(1, 8)).values.shape
    torch.Size([1, 8])
    """

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        k: int = 32,
        k_start: int | None = None,
        anneal_share: float = 0.5,
        alpha: float = 1.0,
        start: Literal["data", "small"] = "data",
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        if k_start is not None:
            k_start = check_int("k_start", k_start, low=k, high=n_latents, high_name="n_latents")
        self.k_start = k_start
        self.anneal_share = check_float("anneal_share", anneal_share, low=0.0, high=1.0)
        self.alpha = check_float("alpha", alpha, low=0.0, open_low=True)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        self.start = check_choice("start", start, ("data", "small"))
        rows = random_rows(n_latents, n_features, self.seed)
        if start == "small":
            rows *= SMALL * n_features**0.5
        self.W_enc = latent_columns(rows)
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.b_dec = nn.Parameter(torch.zeros(n_features))
        self.current_k = self.k

    @property
    def W_dec(self) -> Tensor:  # type: ignore[override]  # noqa: N802  the field's name
        """The transpose of ``W_enc``: weights are tied."""
        return self.W_enc.t()

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the largest signed activations: ``alpha * k``, or in training as scheduled."""
        if k is None:
            k = (
                self.current_k
                if self.training
                else min(self.n_latents, max(1, round(self.alpha * self.k)))
            )
        x = self._checked(x)
        return self._codes(x, k).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"``; there is no auxiliary term."""
        x, target = (self._checked(part).to(self.W_enc.dtype) for part in (x, target))
        codes = self._codes(x, self.current_k)
        mse, recon = decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        return Losses({"mse": mse}, codes.detach(), recon.detach())

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Put ``b_dec`` at the mean of the sample, so that the units explain the deviations.

        From ``start="small"`` nothing is changed.
        """
        if self.start == "small":
            return
        sample = self._checked(sample).to(self.W_enc.dtype)
        self.b_dec.copy_(sample.mean(0))
        self.b_enc.copy_(-(self.b_dec @ self.W_enc))

    def set_progress(self, progress: float) -> None:
        """Let k fall linearly over the first `anneal_share` of the training."""
        if self.k_start is None or progress >= self.anneal_share:
            self.current_k = self.k
        else:
            done = progress / self.anneal_share
            self.current_k = round(self.k_start + (self.k - self.k_start) * done)

    def _codes(self, x: Tensor, k: int) -> SparseCodes:
        return encode_topk(x.to(self.W_enc.dtype), self.W_enc, self.b_enc, k, activation="none")
