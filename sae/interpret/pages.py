"""Latent pages: all that a dashboard shows of each latent, a few latents at a time."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sae.autoencoders import Bilinear
from sae.interpret.browser import CANDIDATES, choose_examples
from sae.interpret.coactivation import coactive_latents
from sae.interpret.encoded import EncodedRows
from sae.interpret.lens import LogitLens
from sae.interpret.neighbors import nearest_latents
from sae.interpret.token_texts import token_texts
from sae.interpret.top_examples import BINS_PER_OCTAVE, N_BINS, LatentExamples, top_examples
from sae.interpret.windows import token_windows
from sparsecode._checks import check_int

QUANTILES = (0.75, 0.5, 0.25)
N_ALIGNED = 3
TOGETHER = 4096  # latents whose windows are read in one go through the data


@dataclass(frozen=True)
class Example:
    """A row on which a latent fires, with the tokens around it; none for data without tokens.

    ``group`` is the place of its heading in `LatentPages.groups`.
    """

    group: int
    value: float
    row: int
    center: int
    tokens: list[str]
    values: list[float]


@dataclass(frozen=True)
class LatentPage:
    """What is shown of one latent.

    ``logit_bars`` are centers and counts of a histogram of the logits of its decoder row;
    ``aligned`` the largest coordinates of that row, each with its share of the row's 1-norm.
    """

    latent: int
    count: int
    density: float
    maximum: float
    mean: float
    histogram: list[tuple[float, int]]
    examples: list[Example]
    neighbors: list[tuple[int, float]]
    coactive: list[tuple[int, float]]
    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]
    logit_bars: list[tuple[float, int]]
    aligned: list[tuple[int, float, float]]

    @property
    def peaks(self) -> list[str]:
        """The different tokens on which the top examples peak, most frequent first."""
        top = [example for example in self.examples if example.group == 0 and example.tokens]
        words = Counter(example.tokens[example.center].strip() for example in top)
        return [word for word, _ in words.most_common(5) if word]


class LatentPages:
    """Gathers what a dashboard shows; memory grows with the number of latents, not of rows.

    Parameters
    ----------
    encoded : EncodedRows
    vocabulary : sequence of str or None
        As for `browser_data`.
    n_top : int, default=8
        Top examples of each latent; two more come from around each of three quantiles.
    n_neighbors : int, default=6
        Nearest latents by decoder cosine, and latents that fire together.
    lens : LogitLens or None, default=None
        Of all latents.
    lens_vocabulary : sequence of str or None, default=None
        Pieces of its tokens.
    """

    def __init__(
        self,
        encoded: EncodedRows,
        vocabulary: Sequence[str] | None,
        *,
        n_top: int = 8,
        n_neighbors: int = 6,
        lens: LogitLens | None = None,
        lens_vocabulary: Sequence[str] | None = None,
    ) -> None:
        n_top = check_int("n_top", n_top, low=1)
        self.encoded, self.lens = encoded, lens
        self.texts = None if vocabulary is None else token_texts(vocabulary)
        self.lens_texts = [] if lens_vocabulary is None else token_texts(lens_vocabulary)
        self.found: LatentExamples = top_examples(encoded, n_top=CANDIDATES * n_top)
        self.values, self.rows, groups = choose_examples(self.found, n_top, QUANTILES, 16)
        self.groups = [group["name"] for group in groups]
        self._group_of = [i for i, group in enumerate(groups) for _ in range(group["size"])]
        model = encoded.model
        atoms = (model.left, model.right) if isinstance(model, Bilinear) else (model.W_dec, None)
        self.neighbors = nearest_latents(atoms[0], n_neighbors, right=atoms[1])
        self.coactive = coactive_latents(encoded, n_neighbors)
        self.aligned = _aligned(atoms[0].detach(), N_ALIGNED if atoms[1] is None else 0)

    def __iter__(self) -> Iterator[LatentPage]:
        for start in range(0, self.encoded.n_latents, TOGETHER):
            stop = min(start + TOGETHER, self.encoded.n_latents)
            # Plain numbers from here on: reading them one by one from tensors takes long.
            plain = [
                part[start:stop].tolist()
                for part in (
                    self.found.counts,
                    self.found.density,
                    self.found.maximum,
                    self.found.means,
                    self.found.histogram,
                    *self.neighbors,
                    *self.coactive,
                )
            ]
            examples = self._examples(start, stop)
            for latent, (count, density, maximum, mean, histogram, *pairs), shown in zip(
                range(start, stop), zip(*plain, strict=True), examples, strict=True
            ):
                yield LatentPage(
                    latent=latent,
                    count=count,
                    density=density,
                    maximum=maximum,
                    mean=mean,
                    histogram=_bars(histogram),
                    examples=shown,
                    neighbors=_pairs(pairs[0], pairs[1]),
                    coactive=_pairs(pairs[2], pairs[3]),
                    promoted=self._tokens(latent, "top"),
                    suppressed=self._tokens(latent, "bottom"),
                    logit_bars=self._logit_bars(latent),
                    aligned=_triples(*(part[latent].tolist() for part in self.aligned)),
                )

    def _examples(self, start: int, stop: int) -> Iterator[list[Example]]:
        """Yield the examples of each latent of a range."""
        rows = self.rows[start:stop]
        width = rows.shape[1]
        owners = torch.arange(start, stop)[:, None].expand_as(rows).reshape(-1)
        windows: list[Any] = [[0] * rows.numel(), [0] * rows.numel(), [[]] * rows.numel(), []]
        if self.texts is not None:
            read = token_windows(self.encoded, owners, rows.reshape(-1))
            windows = [
                read.lengths.tolist(),
                read.centers.tolist(),
                read.token_ids,
                read.activations,
            ]
        lengths, centers, token_ids, activations = windows
        plain = zip(rows.tolist(), self.values[start:stop].tolist(), strict=True)
        for place, (own_rows, own_values) in enumerate(plain):
            shown = []
            for column, (row, value) in enumerate(zip(own_rows, own_values, strict=True)):
                number = place * width + column
                if row < 0:
                    continue
                tokens, values = [], []
                if self.texts is not None:
                    length = lengths[number]
                    tokens = [self._text(i) for i in token_ids[number, :length].tolist()]
                    values = activations[number, :length].tolist()
                group = self._group_of[column]
                shown.append(Example(group, value, row, centers[number], tokens, values))
            yield shown

    def _text(self, token: int) -> str:
        assert self.texts is not None
        return self.texts[token] if token < len(self.texts) and self.texts[token] else f" <{token}>"

    def _logit_bars(self, latent: int) -> list[tuple[float, int]]:
        if self.lens is None:
            return []
        centers, counts = self.lens.bar_centers[latent], self.lens.bar_counts[latent]
        return list(zip(centers.tolist(), counts.tolist(), strict=True))

    def _tokens(self, latent: int, side: str) -> list[tuple[str, float]]:
        if self.lens is None:
            return []
        tokens, logits = (
            (self.lens.top_tokens, self.lens.top_logits)
            if side == "top"
            else (self.lens.bottom_tokens, self.lens.bottom_logits)
        )
        texts = [
            self.lens_texts[i] if i < len(self.lens_texts) else f"<{i}>"
            for i in tokens[latent].tolist()
        ]
        return list(zip(texts, logits[latent].tolist(), strict=True))


def _aligned(rows: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the `n` largest coordinates of each row: their places, values and shares."""
    top = rows.float().topk(min(n, rows.shape[1]), dim=1)
    norms = rows.float().abs().sum(1, keepdim=True).clamp(min=1e-30)
    return top.indices.cpu(), top.values.cpu(), (top.values / norms).cpu()


def _triples(
    places: list[int], values: list[float], shares: list[float]
) -> list[tuple[int, float, float]]:
    return list(zip(places, values, shares, strict=True))


def _bars(histogram: list[int]) -> list[tuple[float, int]]:
    """Return lower edge (as log2) and count of the bins from the first to the last one used."""
    used = [i for i, count in enumerate(histogram) if count]
    if not used:
        return []
    bins = range(used[0], used[-1] + 1)
    return [((i - N_BINS // 2) / BINS_PER_OCTAVE, histogram[i]) for i in bins]


def _pairs(latents: list[int], values: list[float]) -> list[tuple[int, float]]:
    pairs = zip(latents, values, strict=True)
    return [(latent, value) for latent, value in pairs if latent >= 0]
