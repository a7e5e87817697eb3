"""Nearest latents: those whose decoder rows point in the most similar direction."""

import torch
from torch import Tensor

from sparsecode._checks import check_floating, check_int


@torch.no_grad()
def nearest_latents(
    W_dec: Tensor, n: int = 5, *, right: Tensor | None = None, chunk_size: int = 2048
) -> tuple[Tensor, Tensor]:
    """Find the latents with the largest cosine to each latent, the latent itself left out.

    Parameters
    ----------
    W_dec : Tensor of shape (F, D), floating
        One atom a row; norms do not matter. A row of zeros has cosine 0 with all others.
    n : int, default=5
        Neighbors of each latent; fewer where F - 1 is smaller.
    right : Tensor of shape (F, D) or None, default=None
        Where an atom is the product of two rows, the second ones; `W_dec` then holds the first.
    chunk_size : int, default=2048
        Rows compared at a time; (chunk_size, F) is the largest matrix that is held.

    Returns
    -------
    latents : Tensor of shape (F, n), int64
        Descending by cosine.
    cosines : Tensor of shape (F, n), float32

    Examples
    --------
    >>> latents, cosines = nearest_latents(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]]), n=1)
    >>> latents.flatten().tolist()
    [2, 2, 0]
    """
    check_floating("W_dec", W_dec)
    n_latents = W_dec.shape[0]
    n = min(check_int("n", n, low=1), n_latents - 1)
    units = [_unit(rows) for rows in (W_dec, right) if rows is not None]
    found_latents = torch.empty(n_latents, n, dtype=torch.long)
    found_cosines = torch.empty(n_latents, n)
    for start in range(0, n_latents, chunk_size):
        cosines = units[0][start : start + chunk_size] @ units[0].t()
        for unit in units[1:]:
            cosines *= unit[start : start + chunk_size] @ unit.t()
        own = torch.arange(cosines.shape[0])
        cosines[own, own + start] = -torch.inf
        best = cosines.topk(n, dim=1)
        found_latents[start : start + chunk_size] = best.indices.cpu()
        found_cosines[start : start + chunk_size] = best.values.cpu()
    return found_latents, found_cosines.clamp_(-1.0, 1.0)


def _unit(rows: Tensor) -> Tensor:
    rows = rows.detach().float()
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-30)
