"""HierarchicalTopK: one autoencoder for every number of active latents up to k."""

from collections.abc import Sequence
from typing import ClassVar

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
from sparsecode import SparseCodes, encode_topk, hierarchical_mse
from sparsecode._checks import check_float, check_int


class HierarchicalTopK(AbstractAutoencoder):
    """Keep the k largest pre-activations, and make every prefix of them a good code.

    ``a = TopK(ReLU((x - b_dec) W_enc + b_enc))``; with ``xhat^j`` the reconstruction from the j
    largest entries of ``a``, the loss is ``mean over j in J of ||x - xhat^j||^2``. One
    model then serves all budgets: ``encode(x, k=j)``.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    k : int, default=32
        Most latents kept in each row, and how many `encode` keeps unless told otherwise.
    budgets : sequence of int or None, default=None
        The set J, different numbers in [1, k]; None means all of them.
    weights : sequence of float or None, default=None
        Weight of each of `budgets`; None weighs all by one over their number.
    aux_coefficient : float, default=1/32
        Weight of the AuxK loss on what the largest budget leaves over; 0 switches it off.
    k_aux : int or None, default=None
        Dead latents that may explain the residual; None means half of `n_features`.
    pre_bias : bool, default=True
        Whether ``b_dec`` is subtracted before encoding.
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    Notes
    -----
    With ``budgets=[k]`` this is `TopK`. A schedule of k (`TrainConfig.k_start`) moves the budgets
    when they are None; given budgets stay.

    References
    ----------
    Balagansky et al. (2025), "Train One Sparse Autoencoder Across Multiple Sparsity Budgets to
    Preserve Interpretability and Accuracy". arXiv:2505.24473. Differs from it in: any budgets and
    weights, and the sum over features instead of their mean, as in all losses here.

    Examples
    --------
    >>> model = HierarchicalTopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> model.encode(torch.ones(2, 8), k=2).values.shape
    torch.Size([2, 2])
    """

    unit_norm_decoder: bool = True
    serves_all_budgets: ClassVar[bool] = True

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        k: int = 32,
        budgets: Sequence[int] | None = None,
        weights: Sequence[float] | None = None,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        pre_bias: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        self.budgets = None if budgets is None else _checked_budgets(budgets, self.k)
        self.weights = None if weights is None else _checked_weights(weights, self.budgets)
        self.aux_coefficient = check_float("aux_coefficient", aux_coefficient, low=0.0)
        self.k_aux = None if k_aux is None else check_int("k_aux", k_aux, low=1)
        self.pre_bias = bool(pre_bias)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the k largest latents of each row, descending; any k is a budget."""
        x = self._checked(x)
        return self._codes(x, self.k if k is None else k).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the error over all budgets ``"mse"`` and, with dead latents, ``"auxk"``."""
        x, target = (self._checked(part).to(self.W_enc.dtype) for part in (x, target))
        budgets = list(range(1, self.k + 1)) if self.budgets is None else self.budgets
        codes = self._codes(x, max(budgets))
        mse, recon = hierarchical_mse(
            codes,
            self.W_dec,
            target,
            budgets=budgets,
            weights=self.weights,
            bias=self.b_dec,
            keep="last",
        )
        auxk = auxk_terms(
            self,
            x - self.b_dec if self.pre_bias else x,
            target - recon,
            dead_latents,
            coefficient=self.aux_coefficient,
            k_aux=self.k_aux,
        )
        return Losses({"mse": mse, **auxk}, codes.detach(), recon)

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Put ``b_dec`` at the geometric median and scale the encoder to the size of the data."""
        sample = self._checked(sample).to(self.W_enc.dtype)
        self.b_dec.copy_(geometric_median(sample))
        scale_encoder(self, sample, self._codes(sample, self.k))

    def _codes(self, x: Tensor, k: int) -> SparseCodes:
        pre_bias = self.b_dec if self.pre_bias else None
        return encode_topk(x.to(self.W_enc.dtype), self.W_enc, self.b_enc, k, pre_bias=pre_bias)


def _checked_budgets(budgets: Sequence[int], k: int) -> list[int]:
    checked = [check_int("budgets", budget, low=1, high=k, high_name="k") for budget in budgets]
    if not checked or len(set(checked)) < len(checked):
        raise ValueError(
            f"`budgets` must be one or more different numbers in [1, k]; got {checked} with k={k}."
        )
    return checked


def _checked_weights(weights: Sequence[float], budgets: list[int] | None) -> list[float]:
    checked = [check_float("weights", weight, low=0.0) for weight in weights]
    if budgets is None or len(checked) != len(budgets):
        wanted = "none without `budgets`" if budgets is None else f"{len(budgets)}"
        raise ValueError(
            f"`weights` must have one number for each of `budgets` ({wanted}); got {len(checked)}."
        )
    return checked
