"""Top examples: the rows that activate each latent most, found in one pass over the data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sae.interpret.encoded import EncodedRows
from sparsecode._checks import check_float, check_int

BINS_PER_OCTAVE = 4
N_BINS = 128
"""Bins of the activation histogram: quarter octaves from 2**-16 to 2**16, the outer ones open."""


@dataclass(frozen=True)
class LatentExamples:
    """What `top_examples` returns: statistics and example rows of F latents.

    Parameters
    ----------
    n_rows : int
        Rows that were read.
    counts : Tensor of shape (F,), int64
        Rows in which each latent fired, that is, had a value above 0.
    means : Tensor of shape (F,), float64
        Mean value over the rows in which the latent fired; 0 for one that never did.
    histogram : Tensor of shape (F, 128), int64
        Values counted by ``floor(4 * log2(value)) + 64``.
    values, rows : Tensor of shape (F, m), float32 and int64
        The m largest values and their rows, descending, ties to the lower row. Where a latent fired
        in fewer rows, the value is 0 and the row -1.
    sample_values, sample_rows : Tensor of shape (F, s), float32 and int64
        Rows in which the latent fired, each with the same chance to be here, sorted the same way.
    """

    n_rows: int
    counts: Tensor
    means: Tensor
    histogram: Tensor
    values: Tensor
    rows: Tensor
    sample_values: Tensor
    sample_rows: Tensor

    @property
    def density(self) -> Tensor:
        """Share of the rows in which each latent fired, float64 of shape (F,)."""
        return self.counts.double() / max(1, self.n_rows)

    @property
    def maximum(self) -> Tensor:
        """Largest value of each latent, shape (F,)."""
        return self.values[:, 0]

    def at_quantile(self, quantile: float, n: int = 1) -> tuple[Tensor, Tensor]:
        """Return examples from around a quantile of the values of each latent.

        Taken from the sample, so the quantile is an estimate.

        Parameters
        ----------
        quantile : float in [0, 1]
        n : int, default=1

        Returns
        -------
        values, rows : Tensor of shape (F, n)
            Neighbors in the sorted sample; value 0 and row -1 where the latent has fewer than n.
        """
        quantile = check_float("quantile", quantile, low=0.0, high=1.0)
        n = check_int("n", n, low=1, high=self.sample_rows.shape[1])
        filled = (self.sample_rows >= 0).sum(1)
        middle = ((1.0 - quantile) * (filled - 1).clamp(min=0)).round().long()
        first = (middle - (n - 1) // 2).clamp(min=0).minimum((filled - n).clamp(min=0))
        picked = first[:, None] + torch.arange(n)
        return self.sample_values.gather(1, picked), self.sample_rows.gather(1, picked)


def top_examples(encoded: EncodedRows, *, n_top: int = 10, n_sample: int = 32) -> LatentExamples:
    """Find the rows that activate each latent most, and count what each latent does.

    The rows are gone through once, in order; what is held here grows with F * (n_top + n_sample),
    not with the number of rows. The result is a function of the codes alone, not of how they were
    cut into blocks, and not of chance: the sample keeps, of the rows in which a latent fired,
    those with the largest hash.

    Parameters
    ----------
    encoded : EncodedRows
    n_top : int, default=10
        Examples of the largest values that are kept for each latent.
    n_sample : int, default=32
        Examples that are drawn from all rows in which it fired.

    Returns
    -------
    LatentExamples

    Examples
    --------
    >>> import sae
    >>> from sae.cache import as_source
    >>> model = sae.TopK(n_features=8, n_latents=16, k=2, seed=0)
    >>> found = top_examples(EncodedRows(model, as_source(torch.eye(8))), n_top=3)
    >>> found.rows.shape, int(found.counts.sum()) <= 16
    (torch.Size([16, 3]), True)
    """
    n_latents = encoded.n_latents
    top = _Best(n_latents, check_int("n_top", n_top, low=1))
    sample = _Best(n_latents, check_int("n_sample", n_sample, low=1))
    counts = torch.zeros(n_latents, dtype=torch.long)
    sums = torch.zeros(n_latents, dtype=torch.float64)
    histogram = torch.zeros(n_latents, N_BINS, dtype=torch.long)

    for start, codes in encoded.blocks():
        fired = codes.values > 0
        latents, values = codes.indices[fired], codes.values[fired]
        rows = codes.row_ids()[fired] + start
        counts += torch.bincount(latents, minlength=n_latents)
        sums.index_add_(0, latents, values.double())
        places = latents * N_BINS + bin_of(values)
        histogram.view(-1).index_add_(0, places, torch.ones_like(places))
        top.update(latents, values.double(), rows, values)
        sample.update(latents, _hash(latents, rows), rows, values)

    # The sample was ranked by hash; from here on it is read by value, equal values by row.
    order = sample.rows.argsort(dim=1)
    order = order.gather(
        1, sample.values.gather(1, order).argsort(dim=1, descending=True, stable=True)
    )
    return LatentExamples(
        n_rows=encoded.n_rows,
        counts=counts,
        means=sums / counts.clamp(min=1),
        histogram=histogram,
        values=top.values,
        rows=top.rows,
        sample_values=sample.values.gather(1, order),
        sample_rows=sample.rows.gather(1, order),
    )


class _Best:
    """The m entries with the largest keys of each latent, as entries arrive in batches.

    Batches must come in the order of their rows: of two equal keys the one that came first stays.
    """

    def __init__(self, n_latents: int, size: int) -> None:
        self.keys = torch.full((n_latents, size), -torch.inf, dtype=torch.float64)
        self.rows = torch.full((n_latents, size), -1)
        self.values = torch.zeros(n_latents, size)

    def update(self, latents: Tensor, keys: Tensor, rows: Tensor, values: Tensor) -> None:
        size = self.keys.shape[1]
        # Once a latent has seen many rows, hardly any entry passes its smallest key.
        keep = (keys > self.keys[latents, -1]).nonzero().squeeze(1)
        keep = keep[keys[keep].argsort(descending=True, stable=True)]
        keep = keep[latents[keep].argsort(stable=True)]
        changed, group, lengths = latents[keep].unique_consecutive(
            return_inverse=True, return_counts=True
        )
        place = torch.arange(keep.numel()) - (lengths.cumsum(0) - lengths)[group]
        keep, group, place = (part[place < size] for part in (keep, group, place))

        def merged(old: Tensor, new: Tensor, fill: float) -> Tensor:
            arrived = old.new_full((changed.numel(), size), fill)
            arrived[group, place] = new[keep]
            return torch.cat([old[changed], arrived], 1)

        all_keys = merged(self.keys, keys, -torch.inf)
        order = all_keys.argsort(dim=1, descending=True, stable=True)[:, :size]
        self.keys[changed] = all_keys.gather(1, order)
        self.rows[changed] = merged(self.rows, rows, -1).gather(1, order)
        self.values[changed] = merged(self.values, values, 0.0).gather(1, order)


def bin_of(values: Tensor) -> Tensor:
    """Return the bin of the histogram that each value falls into."""
    place = (values.double().log2() * BINS_PER_OCTAVE).floor() + N_BINS // 2
    return place.clamp(0, N_BINS - 1).long()


def _hash(latents: Tensor, rows: Tensor) -> Tensor:
    """Return a number for each entry that looks random and depends on its latent and row only."""
    low = (1 << 31) - 1
    mixed = (rows & low) ^ (rows >> 31)
    for salt in (latents, 0x1B873593, 0x2C1B3C6D):
        mixed = mixed ^ salt
        for _ in range(2):
            # Both factors are below 2**31, so that no product leaves int64.
            mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & low
    return (mixed ^ (mixed >> 16)).double()
