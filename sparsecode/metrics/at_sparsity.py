"""Reconstruction at equal sparsity: what codes are worth when all keep as many entries."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsecode._checks import check_floating, check_int
from sparsecode.codes import SparseCodes
from sparsecode.metrics.reconstruction import ReconstructionSums
from sparsecode.ops.decode import decode


@torch.no_grad()
def fvu_at_sparsity(
    x: Tensor,
    codes: SparseCodes,
    dictionary: Tensor,
    budgets: Sequence[int],
    *,
    bias: Tensor | None = None,
) -> dict[int, float]:
    """Return the fraction of variance unexplained when rows keep their largest entries.

    Codes of different methods have different numbers of entries, and errors compare only where
    these are equal. Entries are kept by magnitude, as they are: nothing is fitted again.

    Parameters
    ----------
    x : Tensor of shape (N, D)
    codes : SparseCodes of shape (N, F)
    dictionary : Tensor of shape (F, D)
        One atom per row.
    budgets : sequence of int >= 0
        Numbers of entries to keep in each row.
    bias : Tensor of shape (D,) or None, default=None
        What is added to every reconstruction.

    Returns
    -------
    dict of int to float
        The FVU at each of `budgets`; rows with fewer entries are kept whole.

    Examples
    --------
    >>> x = torch.tensor([[4.0, 1.0], [-4.0, -1.0]])
    >>> codes = SparseCodes(x, torch.tensor([[0, 1], [0, 1]]), 2)
    >>> fvu_at_sparsity(x, codes, torch.eye(2), [1, 2])
    {1: 0.058823529411764705, 2: 0.0}
    """
    x, dictionary = check_floating("x", x), check_floating("dictionary", dictionary)
    fixed = codes.flatten().to_fixed()
    order = fixed.values.abs().argsort(dim=-1, descending=True, stable=True)
    values, indices = fixed.values.gather(-1, order), fixed.indices.gather(-1, order)
    found = {}
    for k in [check_int("budgets", budget, low=0) for budget in budgets]:
        kept = SparseCodes(values[:, :k], indices[:, :k], codes.width)
        sums = ReconstructionSums(x.shape[-1], device=x.device)
        sums.add(x.reshape(-1, x.shape[-1]), decode(kept, dictionary, bias=bias))
        found[k] = sums.fvu
    return found
