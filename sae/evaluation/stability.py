"""Stability: which latents come back when an autoencoder is trained again."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import scipy.sparse
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from sae.autoencoders import AbstractAutoencoder
from sparsecode._checks import check_float, check_int

SAME = 0.7  # cosine from which on two latents count as the same
NEAREST = 32


def stability(
    models: Sequence[AbstractAutoencoder],
    *,
    same: float = SAME,
    max_exact: int = 4096,
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
    max_exact : int, default=4096
        Latents of wider models are first matched among the 32 nearest of each, and only those that
        are left among all; the Hungarian method takes time that grows with their cube.

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
    max_exact = check_int("max_exact", max_exact, low=1)
    widths = {tuple(model.W_dec.shape[1:]) for model in models}
    if len(models) < 2 or len(widths) > 1:
        raise ValueError(
            "`models` must be two or more autoencoders with decoder rows of one width; "
            f"got {len(models)} with widths {sorted(widths)}."
        )
    pairs = []
    for first, second in combinations(range(len(models)), 2):
        rows = (models[first].W_dec.detach(), models[second].W_dec.detach())
        cosines = matched_cosines(*rows, max_exact=max_exact)
        shared = float((cosines >= same).double().mean())
        mean = float(cosines.mean())
        pairs.append({"models": [first, second], "mean_cosine": mean, "shared": shared})
    means = {
        key: sum(pair[key] for pair in pairs) / len(pairs) for key in ("mean_cosine", "shared")
    }
    return {**means, "pairs": pairs}


def matched_cosines(first: Tensor, second: Tensor, *, max_exact: int = 4096) -> Tensor:
    """Return the cosine of each matched pair of rows.

    Parameters
    ----------
    first : Tensor of shape (F, D)
    second : Tensor of shape (G, D)
    max_exact : int, default=4096

    Returns
    -------
    Tensor of shape (min(F, G),), float64
        In no particular order.
    """
    a, b = (torch.nn.functional.normalize(rows.double().cpu(), dim=1) for rows in (first, second))
    a, b = (a, b) if len(a) <= len(b) else (b, a)
    found = []
    while len(a) > max_exact:
        rows, columns = _matched_among_nearest(a, b)
        if not len(rows):  # none is near any other: any matching will do
            break
        found.append((a[rows] * b[columns]).sum(1))
        a, b = _without(a, rows), _without(b, columns)
    if len(a) <= max_exact:
        cosines = a @ b.t()
        found.append(cosines[linear_sum_assignment(cosines.numpy(), maximize=True)])
    else:
        found.append((a * b[: len(a)]).sum(1))
    return torch.cat(found).clamp(-1, 1)


def _matched_among_nearest(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the best matching in which each row of `a` has one of its nearest, or none."""
    near = min(NEAREST, len(b))
    parts = [(part @ b.t().float()).topk(near, dim=1) for part in a.float().split(512)]
    values = torch.cat([part.values for part in parts]).double().numpy()
    columns = torch.cat([part.indices for part in parts]).numpy()
    n = len(a)
    own = np.arange(n)[:, None]
    # Each row may also take a column of its own, that of no partner, at a cosine of 0.
    weights = np.concatenate([np.maximum(values, 0), np.zeros((n, 1))], axis=1)
    places = np.concatenate([columns, len(b) + own], axis=1)
    starts = np.arange(0, places.size + 1, places.shape[1])
    costs = scipy.sparse.csr_matrix(
        (2 - weights.ravel(), places.ravel(), starts), shape=(n, len(b) + n)
    )
    rows, matched = min_weight_full_bipartite_matching(costs)
    real = (matched < len(b)) & (np.asarray(costs[rows, matched]).ravel() < 2)
    return rows[real], matched[real]


def _without(rows: Tensor, taken: np.ndarray) -> Tensor:
    keep = torch.ones(len(rows), dtype=torch.bool)
    keep[torch.from_numpy(taken)] = False
    return rows[keep]
