"""TiedTopK: the autoencoder of contrastive sparse representations, and its reconstruction terms."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsecode._checks import check_int, check_last_dim
from sparsecode.codes import SparseCodes
from sparsecode.losses import auxk_loss
from sparsecode.ops.decode import decode, decode_mse
from sparsecode.ops.encode import encode_topk

WIDER, SHARE_OF_WIDER = 4, 1 / 8  # L_4k, and its weight


@dataclass(frozen=True)
class ReconstructionTerms:
    """What `TiedTopK.reconstruction_terms` returns.

    Parameters
    ----------
    k : Tensor, scalar
        ``L_k``, the mean over rows of the squared error of the codes with k entries.
    wider : Tensor, scalar
        ``L_4k``, that of the codes with four times as many.
    aux : Tensor, scalar
        ``L_aux``, free of the unit of the data.
    codes : SparseCodes of shape (N, F)
        The codes with k entries.
    """

    k: Tensor
    wider: Tensor
    aux: Tensor
    codes: SparseCodes


class TiedTopK(nn.Module):
    """Keep the k largest positive activations of a linear encoder whose transpose decodes.

    ``a = W (v - b_pre) + b_latent``; ``z = relu(top-k of a)``; ``v' = W^T z + b_pre``.

    Parameters
    ----------
    n_features : int
        Width D of the embeddings.
    n_latents : int
        Width F of the codes.
    seed : int, default=0
        Of the start: rows of Gaussian directions and unit length.

    References
    ----------
    Wen et al. (2025), "Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation",
    with its code. arXiv:2503.01776. Differs from it in: the start; ``L_aux`` gives no gradient to
    ``b_pre``, which is subtracted from its input but not added to what it explains.

    Examples
    --------
    >>> module = TiedTopK(8, 32)
    >>> module.encode(torch.ones(1, 8), k=4).values.shape
    torch.Size([1, 4])
    """

    def __init__(self, n_features: int, n_latents: int, seed: int = 0) -> None:
        super().__init__()
        n_features = check_int("n_features", n_features, low=1)
        n_latents = check_int("n_latents", n_latents, low=1)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(n_latents, n_features, generator=generator)
        self.W = nn.Parameter(nn.functional.normalize(rows, dim=1))
        self.b_latent = nn.Parameter(torch.zeros(n_latents))
        self.b_pre = nn.Parameter(torch.zeros(n_features))

    @property
    def n_features(self) -> int:
        """Width D of the embeddings."""
        return self.W.shape[1]

    @property
    def n_latents(self) -> int:
        """Width F of the codes."""
        return self.W.shape[0]

    def encode(self, x: Tensor, k: int) -> SparseCodes:
        """Return codes with the `k` largest positive activations of each row.

        Parameters
        ----------
        x : Tensor of shape (N, D)
        k : int in [1, n_latents]
        """
        check_last_dim("x", x, self.n_features, "n_features")
        x = x.to(self.W.dtype)
        return encode_topk(x, self.W.t(), self.b_latent, k, pre_bias=self.b_pre)

    def decode(self, codes: SparseCodes) -> Tensor:
        """Return the embeddings that codes stand for, shape (N, D)."""
        return decode(codes.to(self.W.dtype), self.W, bias=self.b_pre)

    def reconstruction_terms(
        self, x: Tensor, k: int, *, dead_latents: Tensor | None = None, k_aux: int = 512
    ) -> ReconstructionTerms:
        """Return the terms of the loss that concern the reconstruction, none of them weighted.

        Parameters
        ----------
        x : Tensor of shape (N, D)
        k : int in [1, n_latents]
        dead_latents : Tensor of shape (F,), bool, or None, default=None
            None leaves ``L_aux`` at 0.
        k_aux : int, default=512
            Dead latents that may explain the error of a row.

        Notes
        -----
        ``L_aux`` is the squared error of the dead latents on the residual, over that of the mean
        residual of the batch. The dead are chosen from activations of their own: in
        sentence-transformers before 6.2 the mask of the dead also fell on those of ``L_4k``.
        """
        k = check_int("k", k, low=1, high=self.n_latents, high_name="n_latents")
        wide = min(WIDER * k, self.n_latents)
        codes = self.encode(x, wide)
        kept = SparseCodes._trusted(codes.values[:, :k], codes.indices[:, :k], self.n_latents)
        x = x.to(self.W.dtype)
        loss_k, recon = decode_mse(kept, self.W, x, bias=self.b_pre)
        wider, _ = decode_mse(codes, self.W, x, bias=self.b_pre)
        aux = x.new_zeros(())
        if dead_latents is not None:
            aux = self._aux(x, (x - recon).detach(), dead_latents, k_aux)
        return ReconstructionTerms(loss_k, wider, aux, kept)

    def _aux(self, x: Tensor, residual: Tensor, dead_latents: Tensor, k_aux: int) -> Tensor:
        if not bool(dead_latents.any()):
            return x.new_zeros(())
        scale = (residual - residual.mean(0)).square().sum(1).mean()
        loss = auxk_loss(
            x - self.b_pre,
            residual,
            self.W.t(),
            self.b_latent,
            self.W,
            dead_latents=dead_latents,
            k_aux=k_aux,
        )
        return loss / torch.where(scale > 0, scale, 1.0)
