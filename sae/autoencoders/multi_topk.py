"""MultiTopK: TopK with a second, larger k in the loss, so that the code can be cut elsewhere."""

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


class MultiTopK(AbstractAutoencoder):
    """Keep the k largest pre-activations, and train with more of them as well.

    The code is that of `TopK`. The loss is ``L(k) + w L(m k)``, with ``L(j)`` the squared error
    from the j largest pre-activations, plus AuxK on what ``k`` of them leave over. A code with
    another number of latents than k then degrades less.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    k : int, default=32
        Latents kept in each row.
    multiple : int, default=4
        The factor m; ``m k`` is at most `n_latents`.
    multiple_weight : float, default=1/8
        The weight w of the larger code.
    aux_coefficient : float, default=1/32
        Weight of the AuxK loss; 0 switches it off.
    k_aux : int or None, default=None
        Dead latents that may explain the residual; None means half of `n_features`.
    pre_bias : bool, default=True
        Whether ``b_dec`` is subtracted before encoding.
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    References
    ----------
    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", Multi-TopK. arXiv:2406.04093.
    Differs from it in: nothing but what `TopK` says. `HierarchicalTopK` trains all budgets.

    Examples
    --------
    >>> model = MultiTopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> losses = model.loss_terms(torch.ones(2, 8), torch.ones(2, 8))
    >>> sorted(losses.terms), losses.codes.values.shape
    (['mse', 'multi'], torch.Size([2, 4]))
    """

    unit_norm_decoder: bool = True

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        k: int = 32,
        multiple: int = 4,
        multiple_weight: float = 1 / 8,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        pre_bias: bool = True,
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        self.multiple = check_int("multiple", multiple, low=2)
        self.multiple_weight = check_float("multiple_weight", multiple_weight, low=0.0)
        self.aux_coefficient = check_float("aux_coefficient", aux_coefficient, low=0.0)
        self.k_aux = None if k_aux is None else check_int("k_aux", k_aux, low=1)
        self.pre_bias = bool(pre_bias)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        tied_start(self, self.seed)

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the k largest latents of each row, descending."""
        x = self._checked(x)
        return self._codes(x, self.k if k is None else k).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the errors ``"mse"`` at k and ``"multi"`` at more, and perhaps ``"auxk"``."""
        x, target = (self._checked(part).to(self.W_enc.dtype) for part in (x, target))
        wide = min(self.n_latents, self.multiple * self.k)
        found = self._codes(x, wide)
        mse, multi, recon = self._errors(found, target)
        auxk = auxk_terms(
            self,
            x - self.b_dec if self.pre_bias else x,
            target - recon,
            dead_latents,
            coefficient=self.aux_coefficient,
            k_aux=self.k_aux,
        )
        # What fires and what is dead is told by the k that inference keeps.
        codes = SparseCodes(
            found.values.detach()[:, : self.k], found.indices[:, : self.k], self.n_latents
        )
        return Losses({"mse": mse, "multi": multi, **auxk}, codes, recon)

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Put ``b_dec`` at the geometric median and scale the encoder to the size of the data."""
        sample = self._checked(sample).to(self.W_enc.dtype)
        self.b_dec.copy_(geometric_median(sample))
        scale_encoder(self, sample, self._codes(sample, self.k))

    def _codes(self, x: Tensor, k: int) -> SparseCodes:
        pre_bias = self.b_dec if self.pre_bias else None
        return encode_topk(x.to(self.W_enc.dtype), self.W_enc, self.b_enc, k, pre_bias=pre_bias)

    def _errors(self, codes: SparseCodes, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the error at k, the weighted one of the whole, and the reconstruction at k.

        Both codes are decoded together, each entry once; autograd adds up their gradients.
        """
        budgets = sorted({self.k, codes.values.shape[-1]})
        _, recons = hierarchical_mse(codes, self.W_dec, target, budgets=budgets, bias=self.b_dec)
        errors = (recons - target).square().sum((1, 2)) / max(1, len(target))
        return errors[0], self.multiple_weight * errors[-1], recons[0].detach()
