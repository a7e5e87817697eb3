"""Transcoder: sparse latents of one place in a model that predict the activations at another."""

from typing import Literal

import torch
from torch import Tensor, nn

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    auxk_terms,
    latent_columns,
    random_rows,
)
from sparsecode import SparseCodes, decode_mse, encode_threshold, encode_topk, group_max
from sparsecode._checks import (
    check_choice,
    check_float,
    check_floating,
    check_int,
    check_last_dim,
)

ACTIVATIONS = ("topk", "groupmax", "jumprelu")


class Transcoder(AbstractAutoencoder):
    """Predict an output, such as that of an MLP, from k latents of its input.

    ``a = TopK(ReLU(x W_enc + b_enc))``, ``yhat = a W_dec + b_dec``, and with a skip connection
    ``+ x W_skip^T``; the loss is ``||y - yhat||^2`` plus `aux_coefficient` times the AuxK term on
    dead latents. Rows of training data hold input and target side by side, as
    `sae.cache.join` gives them.

    Parameters
    ----------
    n_features : int
        Width of the input.
    n_latents : int
        Width F of the code.
    n_targets : int or None, default=None
        Width of the target; None means `n_features`.
    k : int, default=32
        Latents kept in each row. `encode` takes another k at inference.
    activation : {"topk", "groupmax", "jumprelu"}, default="topk"
        Which latents are active: the k largest; the largest of each of k groups of neighbouring
        ones; or those above their `threshold`, which training leaves as it is, whatever k is.
    skip_connection : bool, default=False
        Whether a linear map of the input is added to the prediction.
    aux_coefficient : float, default=1/32
        Weight of the AuxK loss; 0 switches it off.
    k_aux : int or None, default=None
        Dead latents that may explain the residual; None means half of `n_features`.
    seed : int or None, default=None
        Of the random encoder; None draws from torch's global generator.

    Notes
    -----
    ``b_dec`` is not subtracted from the input. The decoder starts at zero, so that the first
    prediction is the mean of the target, and its rows are free, since inputs and targets may have
    different units.

    References
    ----------
    Dunefsky, Chlenski & Nanda (2024), "Transcoders Find Interpretable LLM Feature Circuits".
    arXiv:2406.11944. Paulo, Shabalin & Belrose (2025), "Transcoders Beat Sparse Autoencoders for
    Interpretability" (skip connection). arXiv:2501.18823. Differs from the former in: TopK in the
    place of an L1 penalty. Its start was first seen at EleutherAI/sparsify, sparse_coder.py and
    trainer.py, commit 9d3b136 (described, not copied).

    Examples
    --------
    >>> model = Transcoder(n_features=8, n_targets=6, n_latents=32, k=4, seed=0)
    >>> model(torch.ones(2, 8)).shape
    torch.Size([2, 6])
    """

    threshold: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        n_targets: int | None = None,
        k: int = 32,
        activation: Literal["topk", "groupmax", "jumprelu"] = "topk",
        skip_connection: bool = False,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        n_targets = n_features if n_targets is None else n_targets
        self.n_targets: int = check_int("n_targets", n_targets, low=1)
        self.row_blocks = (self.n_features, self.n_targets)
        self.k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.skip_connection = bool(skip_connection)
        self.aux_coefficient = check_float("aux_coefficient", aux_coefficient, low=0.0)
        self.k_aux = None if k_aux is None else check_int("k_aux", k_aux, low=1)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        self.W_enc = latent_columns(random_rows(n_latents, n_features, self.seed))
        self.b_enc = nn.Parameter(torch.zeros(n_latents))
        self.W_dec = nn.Parameter(torch.zeros(n_latents, self.n_targets))
        self.b_dec = nn.Parameter(torch.zeros(self.n_targets))
        if self.activation == "jumprelu":
            self.register_buffer("threshold", torch.zeros(n_latents))
        if self.skip_connection:
            self.W_skip = nn.Parameter(torch.zeros(self.n_targets, n_features))

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the active latents of each row; with `k` the k largest of them."""
        x = self._checked(x)
        rows = x.to(self.W_enc.dtype)
        if self.activation == "jumprelu":
            codes = self._codes(rows, self.k).to(x.dtype)
            return codes if k is None else codes.truncate(k)
        return self._codes(rows, self.k if k is None else k).to(x.dtype)

    def skip(self, x: Tensor) -> Tensor | None:
        """Return ``x W_skip^T``, dtype of `x`; None without a skip connection."""
        if not self.skip_connection:
            return None
        x = self._checked(x)
        return (x.to(self.W_skip.dtype) @ self.W_skip.t()).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"`` and, with dead latents, ``"auxk"``."""
        x = self._checked(x).to(self.W_enc.dtype)
        target = check_last_dim(
            "target", check_floating("target", target), self.n_targets, "n_targets"
        )
        target = target.to(self.W_enc.dtype)
        codes, direct = self._codes(x, self.k), self.skip(x)
        left = target if direct is None else target - direct
        mse, decoded = decode_mse(codes, self.W_dec, left, bias=self.b_dec)
        decoded = decoded.detach()
        auxk = auxk_terms(
            self,
            x,
            left.detach() - decoded,
            dead_latents,
            coefficient=self.aux_coefficient,
            k_aux=self.k_aux,
        )
        recon = decoded if direct is None else decoded + direct.detach()
        return Losses({"mse": mse, **auxk}, codes.detach(), recon)

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Center the pre-activations, and predict the mean of the target."""
        check_last_dim("sample", sample, self.row_width, "n_features + n_targets")
        x, target = self.input_and_target(sample.to(self.W_enc.dtype))
        self.b_enc.copy_(-(x.mean(0) @ self.W_enc))
        self.b_dec.copy_(target.mean(0))

    def _codes(self, x: Tensor, k: int) -> SparseCodes:
        if self.activation == "jumprelu":
            return encode_threshold(x, self.W_enc, self.b_enc, self.threshold.clamp(min=0))
        if self.activation == "groupmax":
            return group_max((x @ self.W_enc + self.b_enc).relu(), k)
        return encode_topk(x, self.W_enc, self.b_enc, k)
