"""How sparse codes are, and which latents take part."""

import math

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import as_tensor
from sparsecode.codes import SparseCodes

DENSE_SHARE = 0.1  # a latent that fires on more rows than this is called dense


class FiringCounts:
    """How often each latent fires, batch after batch.

    A latent fires on a row if its value there is not 0.

    Parameters
    ----------
    width : int
        Number of latents F.
    device : device, default="cpu"
        Where the counts are held; codes must lie there too.

    Examples
    --------
    >>> counts = FiringCounts(3)
    >>> values, ids = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[0, 1], [0, 2]])
    >>> counts.add(SparseCodes(values, ids, 3))
    >>> counts.frequency
    tensor([1.0000, 0.0000, 0.5000], dtype=torch.float64)
    >>> counts.l0, counts.dead_fraction
    (1.5, 0.3333333333333333)
    """

    def __init__(self, width: int, *, device: str | torch.device = "cpu") -> None:
        self.n_rows = 0
        self.counts_F = torch.zeros(width, dtype=torch.int64, device=device)

    @torch.no_grad()
    def add(self, codes: SparseCodes) -> None:
        """Add the codes of a batch."""
        fired = (codes.values != 0).reshape(-1)
        self.counts_F.index_add_(0, codes.indices.reshape(-1), fired.long())
        self.n_rows += codes.n_rows

    @property
    def frequency(self) -> Tensor:
        """Share of rows on which each latent fires, float64 of shape (F,)."""
        return self.counts_F.double() / max(self.n_rows, 1)

    @property
    def l0(self) -> float:
        """Mean number of latents that fire on a row."""
        return int(self.counts_F.sum()) / self.n_rows if self.n_rows else math.nan

    @property
    def dead_fraction(self) -> float:
        """Share of latents that fired on no row."""
        return float((self.counts_F == 0).double().mean()) if len(self.counts_F) else math.nan

    @property
    def dense_fraction(self) -> float:
        """Share of latents that fired on more than a tenth of the rows."""
        if not len(self.counts_F):
            return math.nan
        return float((self.frequency > DENSE_SHARE).double().mean())

    def histogram(self, n_bins: int = 30) -> dict[str, list[float] | list[int] | int]:
        """Return how many latents fire how often, in bins of log10 of the frequency.

        Parameters
        ----------
        n_bins : int, default=30
            Equal bins from one firing in all rows seen to a firing on each row.

        Returns
        -------
        dict
            ``log10_edges`` (n_bins + 1 numbers), ``counts`` (n_bins ints) and ``never``
            (latents that never fired and are in no bin).
        """
        low = -math.log10(max(self.n_rows, 10))
        edges = torch.linspace(low, 0.0, n_bins + 1, dtype=torch.float64)
        fired = self.frequency[self.counts_F > 0].cpu().log10().clamp(low, 0.0)
        counts, _ = torch.histogram(fired, edges)
        never = int((self.counts_F == 0).sum())
        return {"log10_edges": edges.tolist(), "counts": counts.long().tolist(), "never": never}


def l0(codes: SparseCodes | Tensor | np.ndarray) -> float:
    """Return the mean number of non-zero entries of a row.

    Parameters
    ----------
    codes : SparseCodes, Tensor or array of shape (..., F)

    Returns
    -------
    float
        NaN for no rows.

    Examples
    --------
    >>> l0(torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]]))
    1.5
    """
    active = codes.n_active if isinstance(codes, SparseCodes) else (_dense(codes) != 0).sum(-1)
    return float(active.double().mean())


def dead_fraction(codes: SparseCodes | Tensor | np.ndarray) -> float:
    """Return the share of latents that are 0 in every row.

    Parameters
    ----------
    codes : SparseCodes, Tensor or array of shape (..., F)

    Returns
    -------
    float

    Examples
    --------
    >>> dead_fraction(torch.tensor([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 3.0, 0.0]]))
    0.5
    """
    if isinstance(codes, SparseCodes):
        counts = FiringCounts(codes.width, device=codes.device)
        counts.add(codes)
        return counts.dead_fraction
    dense = _dense(codes)
    dead = (dense == 0).reshape(-1, dense.shape[-1]).all(0)
    return float(dead.double().mean()) if len(dead) else math.nan


def hoyer(codes: SparseCodes | Tensor | np.ndarray) -> float:
    """Return Hoyer's sparseness, the mean over rows.

    ``(sqrt(F) - ||a||_1 / ||a||_2) / (sqrt(F) - 1)``: 1 for a row with a single non-zero entry,
    0 for a row whose entries all have the same size.

    Parameters
    ----------
    codes : SparseCodes, Tensor or array of shape (..., F)
        Entries of SparseCodes must not repeat an index within a row.

    Returns
    -------
    float
        Rows of zeros have no sparseness and are left out; NaN if there is no other row.

    References
    ----------
    Hoyer (2004), "Non-negative Matrix Factorization with Sparseness Constraints", JMLR 5, sec. 3.1.

    Examples
    --------
    >>> hoyer(torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    0.5
    """
    if isinstance(codes, SparseCodes):
        width, fixed = codes.width, codes.flatten().to_fixed().values
    else:
        dense = _dense(codes)
        width, fixed = dense.shape[-1], dense.reshape(-1, dense.shape[-1])
    if width < 2:
        raise ValueError(f"`codes` must have at least 2 latents for a sparseness; got {width}.")
    values = fixed.detach().double()
    l1, l2 = values.abs().sum(-1), torch.linalg.vector_norm(values, dim=-1)
    root = math.sqrt(width)
    return float(((root - l1[l2 > 0] / l2[l2 > 0]) / (root - 1.0)).mean())


def _dense(codes: Tensor | np.ndarray) -> Tensor:
    dense = torch.as_tensor(as_tensor(codes))
    if dense.ndim == 0:
        raise ValueError("`codes` must have shape (..., n_latents); got a single number.")
    return dense
