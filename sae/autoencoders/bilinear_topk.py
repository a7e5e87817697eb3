"""BilinearTopK: a bilinear encoder, k latents by construction, a linear decoder."""

import torch
from torch import Tensor, nn

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    geometric_median,
    random_rows,
    scale_encoder,
)
from sparsecode import SparseCodes, bilinear_features, decode_mse
from sparsecode._checks import check_float, check_int


class BilinearTopK(AbstractAutoencoder):
    """Keep the k largest products of two linear maps, and reconstruct x linearly.

    ``a = s TopK(ReLU((L y + left_bias) * (R y + right_bias)))``, ``y = (x - b_dec) / s``,
    ``xhat = a W_dec + b_dec``, with ``s^2`` the mean squared norm of the centered data. A latent
    can so demand two things at once. The loss is ``||x - xhat||^2`` plus `aux_coefficient` times
    the same error of dead latents on what is left over (AuxK).

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
    seed : int or None, default=None
        Of the random dictionary; None draws from torch's global generator.

    Notes
    -----
    Products without biases are even in ``y``: no linear decoder could tell y from -y. Hence the
    biases, and the start at ``R = 0``, ``right_bias = 1``, where the model is `TopK`.

    References
    ----------
    Encoder: Dooms & Gauderis (2025), "Finding Manifolds With Bilinear Autoencoders".
    arXiv:2510.16820. Selection and AuxK: Gao et al. (2024), arXiv:2406.04093. Their combination
    is of this library.

    Examples
    --------
    >>> model = BilinearTopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> codes = model.encode(torch.ones(2, 8))
    >>> codes.shape, codes.values.shape
    ((2, 32), torch.Size([2, 4]))
    """

    unit_norm_decoder: bool = True

    weight_names = ("left", "right", "W_dec", "b_dec")

    scale: Tensor

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        k: int = 32,
        aux_coefficient: float = 1 / 32,
        k_aux: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.k = check_int("k", k, low=1, high=n_latents, high_name="n_latents")
        self.aux_coefficient = check_float("aux_coefficient", aux_coefficient, low=0.0)
        self.k_aux = None if k_aux is None else check_int("k_aux", k_aux, low=1)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        rows = random_rows(n_latents, n_features, self.seed)
        self.left = nn.Parameter(rows.clone())
        self.right = nn.Parameter(torch.zeros(n_latents, n_features))
        self.left_bias = nn.Parameter(torch.zeros(n_latents))
        self.right_bias = nn.Parameter(torch.ones(n_latents))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the k largest latents of each row, descending."""
        x = self._checked(x)
        return self._codes(x, self.k if k is None else k).to(x.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the squared error ``"mse"`` and, with dead latents, ``"auxk"``."""
        x, target = (self._checked(part).to(self.W_dec.dtype) for part in (x, target))
        codes = self._codes(x, self.k)
        mse, recon = decode_mse(codes, self.W_dec, target, bias=self.b_dec)
        terms = {"mse": mse}
        if dead_latents is not None and self.aux_coefficient > 0:
            terms["auxk"] = self.aux_coefficient * self._auxk(x, target - recon, dead_latents)
        return Losses(terms, codes.detach(), recon.detach())

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Center, and scale the encoder so that the first reconstructions have the right size."""
        sample = self._checked(sample).to(self.W_dec.dtype)
        self.b_dec.copy_(geometric_median(sample))
        size = torch.linalg.vector_norm(sample - self.b_dec, dim=1).double().square().mean().sqrt()
        if size > 0:
            self.scale.copy_(size)
        scale_encoder(self, sample, self._codes(sample, self.k), weight=self.left)

    def _codes(self, x: Tensor, k: int) -> SparseCodes:
        codes = bilinear_features(
            x.to(self.W_dec.dtype) / self.scale,
            self.left,
            self.right,
            k,
            b_left=self.left_bias,
            b_right=self.right_bias,
            pre_bias=self.b_dec / self.scale,
        )
        return codes.with_values(codes.values * self.scale)

    def _auxk(self, x: Tensor, residual: Tensor, dead_latents: Tensor) -> Tensor:
        """Return the error of the dead latents' reconstruction of the residual."""
        dead = dead_latents.nonzero().flatten()
        if not dead.numel() or not len(x):
            return x.new_zeros(())
        k_aux = min(self.k_aux or max(1, self.n_features // 2), dead.numel())
        codes = bilinear_features(
            ((x - self.b_dec) / self.scale).detach(),
            self.left[dead],
            self.right[dead],
            k_aux,
            b_left=self.left_bias[dead],
            b_right=self.right_bias[dead],
        )
        codes = codes.with_values(codes.values * self.scale)
        return decode_mse(codes, self.W_dec[dead], residual.detach())[0]
