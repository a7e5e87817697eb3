"""Selections as they are defined: eager, any floating dtype, plain autograd."""

import itertools

import torch
from torch import Tensor


def sort_key(x: Tensor) -> Tensor:
    """Return the float32 key that orders entries: NaN counts as -inf, -0 as +0."""
    key = x.detach().to(torch.float32)
    return torch.where(key.isnan(), -torch.inf, key) + 0.0


def topk(x_NF: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return values and ids (N, k) of the k first entries of each row in the total order."""
    ids_NK = sort_key(x_NF).sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return _gathered(x_NF, ids_NK), ids_NK


def batch_topk(x_NF: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, ids and row boundaries of the `total` first entries of the flattened batch.

    Ties go to the lower row, then to the lower id. Within a row entries descend.
    """
    n_rows, width = x_NF.shape
    flat = sort_key(x_NF).reshape(-1).sort(descending=True, stable=True).indices[:total]
    by_row = flat[torch.div(flat, width, rounding_mode="floor").argsort(stable=True)]
    rows = torch.div(by_row, width, rounding_mode="floor")
    crow = torch.nn.functional.pad(torch.bincount(rows, minlength=n_rows).cumsum(0), (1, 0))
    values = _without_nan(x_NF.reshape(-1)[by_row])
    return values, by_row - rows * width, crow


def group_max(x_NF: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """Return values and ids (N, n_groups) of the winner of each group of neighbours.

    Group g holds the ids from ``g * F // n_groups`` up to ``(g + 1) * F // n_groups``; the
    entries descend.
    """
    width = x_NF.shape[-1]
    key_NF = sort_key(x_NF)
    bounds = [group * width // n_groups for group in range(n_groups + 1)]
    # argmax returns the first of equal entries on every device only by chance, so sort.
    winners = [
        low + key_NF[:, low:high].sort(dim=-1, descending=True, stable=True).indices[:, :1]
        for low, high in itertools.pairwise(bounds)
    ]
    ids = torch.cat(winners, dim=-1)
    order = key_NF.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
    ids = ids.gather(-1, order)
    return _gathered(x_NF, ids), ids


def _gathered(x_NF: Tensor, ids_NK: Tensor) -> Tensor:
    return _without_nan(x_NF.gather(-1, ids_NK))


def _without_nan(values: Tensor) -> Tensor:
    return torch.where(values.isnan(), torch.zeros_like(values), values)
