"""Bilinear: latents that are products of two linear maps, and reconstruct products of inputs."""

from typing import Literal

import torch
from einops import einsum
from torch import Tensor, nn

from sae.autoencoders.base import (
    AbstractAutoencoder,
    Losses,
    ReconstructsProducts,
    geometric_median,
)
from sparsecode import SparseCodes, topk
from sparsecode._checks import check_choice, check_float, check_int
from sparsecode.losses import hoyer_density, outer_product_energy

VARIANTS = ("vanilla", "mixed", "ordered", "combined")
CHUNK_ENTRIES = 1 << 22  # of the kernel, or of decoded matrices, that are held at a time


class Bilinear(AbstractAutoencoder, ReconstructsProducts):
    """Reconstruct ``u (x) u`` from latents ``f = (L u) * (R u)``, u the row scaled to unit norm.

    Each latent is a quadratic form of rank one, ``f_j = <l_j (x) r_j, u (x) u>``, and is its own
    atom: ``Xhat = sum_j g_j l_j (x) r_j``. No (D, D) matrix is needed for the error, which is
    ``||u (x) u - Xhat||^2 = 1 - 2 f.g + g^T K g`` with ``K = (L L^T) * (R R^T)``. Variants:

    - "vanilla": ``g = f``.
    - "mixed": ``g = M^T M f`` with a mixture M of few rows, which forms groups of latents.
    - "ordered": the error is the mean over the first 1, 2, ..., F terms of the sum, so that
      latents come in the order of their importance.
    - "combined": both; sums over the first terms of the mixed ``g``.

    The loss is the error plus `density_coefficient` times the mean Hoyer density of the latents.

    Parameters
    ----------
    n_features : int
        Width D of the activations.
    n_latents : int
        Width F of the code.
    variant : {"vanilla", "mixed", "ordered", "combined"}, default="vanilla"
    n_mixed : int or None, default=None
        Rows of the mixture; None means twice `n_features`, at most `n_latents`. Half of that is
        worse than no mixture. Without effect for variants that do not mix.
    density_coefficient : float, default=0.1
        Weight of the density; 0 switches it off.
    warmup_share : float, default=0.25
        Share of the training over which that weight rises from 0.
    center : bool, default=False
        Whether the geometric median of the data, ``b_dec``, is subtracted from rows before they
        are scaled.
    seed : int or None, default=None
        Of the orthogonal start; None draws from torch's global generator.

    Notes
    -----
    Codes are signed and dense; ``encode(x, k=...)`` keeps the k latents of largest size, or of an
    ordered variant the first k. ``decode`` and ``forward`` return matrices of shape (..., D, D):
    fine for some rows, while training and `sae.evaluate` never make them. What `sae.evaluate`
    calls FVU is that of the products. The sign and the norm of a row cannot be had back. The
    individual rows of the mixture mean nothing, since the loss depends on ``M^T M`` only. The
    density is that of each part of a step, where `TrainConfig.accumulate` splits it. The paper
    trains with Muon: ``TrainConfig(optimizer="muon")`` takes fewer, slower steps than the default.

    References
    ----------
    Dooms & Gauderis (2025), "Finding Manifolds With Bilinear Autoencoders". arXiv:2510.16820.
    Differs from it in: rows can be centered. The code at github.com/tdooms/bae, commit 28012c9,
    sums the kernel over tiles and counts those on the diagonal twice in place of those off it;
    here the error equals that of the explicit outer products.

    Examples
    --------
    >>> model = Bilinear(n_features=8, n_latents=32, seed=0)
    >>> model.encode(torch.eye(8)).shape, model(torch.eye(8)).shape
    ((8, 32), torch.Size([8, 8, 8]))
    """

    weight_names = ("left", "right", "b_dec")

    left: Tensor
    right: Tensor
    mixture: Tensor | None

    def __init__(
        self,
        *,
        n_features: int,
        n_latents: int,
        variant: Literal["vanilla", "mixed", "ordered", "combined"] = "vanilla",
        n_mixed: int | None = None,
        density_coefficient: float = 0.1,
        warmup_share: float = 0.25,
        center: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(n_features, n_latents)
        self.variant = check_choice("variant", variant, VARIANTS)
        self.n_mixed = None if n_mixed is None else check_int("n_mixed", n_mixed, low=1)
        self.density_coefficient = check_float("density_coefficient", density_coefficient, low=0.0)
        self.warmup_share = check_float("warmup_share", warmup_share, low=0.0, high=1.0)
        self.center = bool(center)
        self.seed = None if seed is None else check_int("seed", seed, low=0)
        self.is_ordered = variant in {"ordered", "combined"}
        self.serves_all_budgets = variant == "ordered"
        generator = None if seed is None else torch.Generator().manual_seed(self.seed or 0)
        self.left = _orthogonal(n_latents, n_features, generator)
        self.right = _orthogonal(n_latents, n_features, generator)
        self.mixture = None
        if variant in {"mixed", "combined"}:
            n_rows = self.n_mixed or min(2 * n_features, n_latents)
            self.mixture = _orthogonal(n_rows, n_latents, generator)
        self.register_buffer("b_dec", torch.zeros(n_features))
        self.warmed = 1.0

    def encode(self, x: Tensor, *, k: int | None = None) -> SparseCodes:
        """Return the latents f; with `k` the largest in size, or of an ordered variant the first.

        Parameters
        ----------
        x : Tensor of shape (..., D), floating
        k : int or None, default=None
            None keeps all.

        Returns
        -------
        SparseCodes of shape (..., F), dtype of `x`
        """
        x = self._checked(x)
        f_NF = self._latents(self.product_rows(x)).to(x.dtype)
        if k is not None:
            k = check_int("k", k, low=1, high=self.n_latents, high_name="n_latents")
        if k is None or self.is_ordered:
            return _all_entries(f_NF[..., :k], self.n_latents)
        kept = topk(f_NF.detach().abs(), k).indices
        return SparseCodes._trusted(f_NF.gather(-1, kept), kept, self.n_latents)

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the reconstructed products, shape (..., D, D): for some rows, not for a batch.

        Parameters
        ----------
        codes : SparseCodes of shape (..., F)

        Returns
        -------
        Tensor of shape (..., D, D), dtype of the codes
        """
        g = self._mixed(codes.to(self.left.dtype).to_dense())
        found = [
            einsum(g_nF, self.left, self.right, "n f, f d, f e -> n d e")
            for g_nF in g.reshape(-1, self.n_latents).split(1)
        ]
        shape = (*g.shape[:-1], self.n_features, self.n_features)
        return torch.cat([g.new_zeros(0, *shape[-2:]), *found]).reshape(shape).to(codes.dtype)

    def loss_terms(
        self, x: Tensor, target: Tensor, *, dead_latents: Tensor | None = None
    ) -> Losses:
        """Return the error of the products ``"mse"`` and the penalty ``"density"``."""
        u = self.product_rows(self._checked(x))
        f = self._latents(u)
        g = self._mixed(f)
        f_target, energy = f, _energy(u)
        if target is not x:
            u_target = self.product_rows(self._checked(target))
            f_target, energy = self._latents(u_target), _energy(u_target)
        importance = self._importance() if self.is_ordered else None
        mse = self._error(energy, f_target, g, importance)
        with torch.no_grad():
            error = mse if importance is None else self._error(energy, f_target, g, None)
        density = hoyer_density(f, weights=self._tails() if self.is_ordered else None)
        terms = {"mse": mse, "density": self.warmed * self.density_coefficient * density}
        return Losses(terms, _all_entries(f.detach(), self.n_latents), None, error.detach())

    def reconstruction_loss(self, x: Tensor, *, k: int | None = None) -> Tensor:
        """Return the mean over rows of ``||u (x) u - Xhat||^2``; a model that gives 0 has 1.

        Parameters
        ----------
        x : Tensor of shape (..., D), floating
            Rows are scaled to unit norm.
        k : int or None, default=None
            Sum over the first k latents only. None takes the error that the variant is trained
            for: all latents, or for an ordered variant the mean over all k.

        Returns
        -------
        Tensor, scalar
            Differentiable in the weights.
        """
        u = self.product_rows(self._checked(x)).reshape(-1, self.n_features)
        f = self._latents(u)
        g = self._mixed(f)
        if k is None:
            return self._error(_energy(u), f, g, self._importance() if self.is_ordered else None)
        k = check_int("k", k, low=1, high=self.n_latents, high_name="n_latents")
        energy = outer_product_energy(g[:, :k], self.left[:k], self.right[:k])
        return _energy(u).mean() - 2.0 * (f * g)[:, :k].sum(-1).mean() + energy

    def density(self, x: Tensor) -> Tensor:
        """Return the mean Hoyer density of the latents over the rows of `x`, all weighed alike.

        Parameters
        ----------
        x : Tensor of shape (N, D), floating

        Returns
        -------
        Tensor, scalar
        """
        return hoyer_density(self._latents(self.product_rows(self._checked(x))))

    def product_rows(self, x: Tensor) -> Tensor:
        """Return the rows u: `x`, centered if asked for, at unit norm; rows of zeros stay so."""
        x = x.to(self.left.dtype)
        x = x - self.b_dec if self.center else x
        largest = x.abs().amax(-1, keepdim=True) if x.shape[-1] else x
        x = x / torch.where(largest > 0, largest, 1.0)  # norms of tiny or huge rows do not overflow
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.where(norm > 0, norm, 1.0)

    def product_energies(self, x: Tensor, codes: SparseCodes) -> tuple[Tensor, Tensor]:
        """Return ``<u (x) u, Xhat>`` and ``||Xhat||^2`` of each row."""
        u = self.product_rows(self._checked(x)).reshape(-1, self.n_features)
        g = self._mixed(codes.flatten().to(self.left.dtype).to_dense())
        inner = torch.linalg.vecdot(g, self._latents(u))
        energy = g.new_zeros(len(g))
        step = max(1, CHUNK_ENTRIES // self.n_latents)
        for start in range(0, self.n_latents, step):
            block = slice(start, start + step)
            kernel = (self.left[block] @ self.left.t()) * (self.right[block] @ self.right.t())
            energy += torch.linalg.vecdot(g @ kernel.t(), g[:, block])
        shape = codes.shape[:-1]
        return inner.reshape(shape), energy.reshape(shape)

    @torch.no_grad()
    def initialize(self, sample: Tensor) -> None:
        """Put ``b_dec`` at the geometric median of the sample, if rows are to be centered."""
        if self.center:
            self.b_dec.copy_(geometric_median(self._checked(sample).to(self.left.dtype)))

    def set_progress(self, progress: float) -> None:
        """Let the penalty rise over the first `warmup_share` of the training."""
        self.warmed = min(1.0, progress / self.warmup_share) if self.warmup_share > 0 else 1.0

    def _latents(self, u: Tensor) -> Tensor:
        return (u @ self.left.t()) * (u @ self.right.t())

    def _mixed(self, f: Tensor) -> Tensor:
        return f if self.mixture is None else (f @ self.mixture.t()) @ self.mixture

    def _error(
        self, energy: Tensor, f_target: Tensor, g: Tensor, importance: Tensor | None
    ) -> Tensor:
        inner = f_target * g if importance is None else f_target * g * importance
        own = outer_product_energy(g, self.left, self.right, importance=importance)
        return energy.mean() - 2.0 * inner.sum(-1).mean() + own

    def _importance(self) -> Tensor:
        """Return the share of the sums over first latents that hold each of them."""
        left = torch.arange(self.n_latents, 0, -1, device=self.left.device, dtype=self.left.dtype)
        return left / self.n_latents

    def _tails(self) -> Tensor:
        """Return weights that make a mean over latents the mean of the means over first latents."""
        ranks = torch.arange(1, self.n_latents + 1, device=self.left.device, dtype=self.left.dtype)
        return ranks.reciprocal().flip(0).cumsum(0).flip(0)


def _orthogonal(n_rows: int, n_columns: int, generator: torch.Generator | None) -> nn.Parameter:
    rows = torch.empty(n_rows, n_columns)
    return nn.Parameter(nn.init.orthogonal_(rows, generator=generator))


def _energy(u: Tensor) -> Tensor:
    """Return ``||u (x) u||^2``: 1, or 0 for a row of zeros."""
    return torch.linalg.vecdot(u, u).square()


def _all_entries(f: Tensor, width: int) -> SparseCodes:
    ids = torch.arange(f.shape[-1], device=f.device).expand_as(f)
    return SparseCodes._trusted(f, ids, width)
