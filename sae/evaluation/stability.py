"""Stability: which latents come back when an autoencoder is trained again."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae.autoencoders import AbstractAutoencoder
from sparsecode._checks import check_float, check_int

SAME = 0.7  # cosine from which on two latents count as the same


def stability(
    models: Sequence[AbstractAutoencoder],
    *,
    same: float = SAME,
    max_latents: int = 4096,
    seed: int = 0,
) -> dict[str, Any]:
    """Match the latents of autoencoders one to one by the cosine of their decoder rows.

    The matching with the largest sum of cosines (the Hungarian method) of every pair of models;
    signs count, since latents fire one way only.

    Parameters
    ----------
    models : sequence of AbstractAutoencoder
        Two or more, of one width of rows, such as those of a sweep over seeds.
    same : float, default=0.7
        Cosine from which on two latents count as the same.
    max_latents : int, default=4096
        Of wider models, latents of the first one of a pair are a random sample of this size, and
        those of the second one the 8 nearest of each.
    seed : int, default=0
        Of that sample.

    Returns
    -------
    dict
        Ready for JSON: ``mean_cosine`` and ``shared`` (the share of latents with a partner at
        `same` or more), means over pairs; ``pairs`` has both for each, and its ``models``.

    References
    ----------
    Paulo & Belrose (2025), "Sparse Autoencoders Trained on the Same Data Learn Different
    Features". arXiv:2501.16615. Differs from it in: decoder rows only.

    Examples
    --------
    >>> import sae
    >>> model = sae.TopK(n_features=8, n_latents=16, k=2, seed=0)
    >>> stability([model, model])["shared"]
    1.0
    """
    same = check_float("same", same, low=0.0, high=1.0)
    max_latents = check_int("max_latents", max_latents, low=1)
    widths = {tuple(model.W_dec.shape[1:]) for model in models}
    if len(models) < 2 or len(widths) > 1:
        raise ValueError(
            "`models` must be two or more autoencoders with decoder rows of one width; "
            f"got {len(models)} with widths {sorted(widths)}."
        )
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for first, second in combinations(range(len(models)), 2):
        rows = (models[first].W_dec.detach(), models[second].W_dec.detach())
        cosines = matched_cosines(*rows, max_latents=max_latents, generator=generator)
        shared = float((cosines >= same).double().mean())
        mean = float(cosines.mean())
        pairs.append({"models": [first, second], "mean_cosine": mean, "shared": shared})
    means = {
        key: sum(pair[key] for pair in pairs) / len(pairs) for key in ("mean_cosine", "shared")
    }
    return {**means, "pairs": pairs}


def matched_cosines(
    first: Tensor,
    second: Tensor,
    *,
    max_latents: int = 4096,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the cosine of each matched pair of rows.

    Parameters
    ----------
    first : Tensor of shape (F, D)
    second : Tensor of shape (G, D)
    max_latents : int, default=4096
    generator : torch.Generator or None, default=None

    Returns
    -------
    Tensor of shape (min(F, G, max_latents),), float64
    """
    a, b = (torch.nn.functional.normalize(rows.double().cpu(), dim=1) for rows in (first, second))
    if len(a) > max_latents:
        a = a[torch.randperm(len(a), generator=generator)[:max_latents]]
        if len(b) > max_latents:
            near = torch.cat([(part @ b.t()).topk(8, dim=1).indices for part in a.split(512)])
            b = b[near.unique()]
    cosines = a @ b.t()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[rows, columns].clamp(-1, 1)
