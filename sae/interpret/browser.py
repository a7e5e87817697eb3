"""Browser data: everything that a page shows of single latents, packed for JavaScript."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.autoencoders import Bilinear
from sae.interpret.encoded import EncodedRows
from sae.interpret.neighbors import nearest_latents
from sae.interpret.token_texts import spelling_of, token_texts
from sae.interpret.top_examples import BINS_PER_OCTAVE, N_BINS, LatentExamples, top_examples
from sae.interpret.windows import TokenWindows, token_windows
from sparsecode._checks import check_int

# Examples looked at for each one that is shown: of several from one passage the best is shown.
CANDIDATES = 3


def browser_data(
    encoded: EncodedRows,
    vocabulary: Sequence[str] | None,
    *,
    n_top: int = 8,
    quantiles: Sequence[float] = (0.75, 0.5, 0.25),
    n_neighbors: int = 6,
    before: int = 16,
    after: int = 8,
) -> dict[str, Any]:
    """Collect what a page needs to show every latent: examples in context, density, relatives.

    Arrays are packed as base64 of their little-endian bytes, ``{"type": "uint16", "data": ...}``,
    which JavaScript reads as typed arrays. Text is stored once: examples are places in one pool
    of tokens, tokens are places in a list of texts.

    Parameters
    ----------
    encoded : EncodedRows
    vocabulary : sequence of str or None
        Text of each token id as the tokenizer spells it. An id that it does not hold, or any with
        an empty one, is shown as a number. None for data without tokens: examples are row numbers.
    n_top : int, default=8
        Top examples of each latent. Of examples from one passage the strongest is taken.
    quantiles : sequence of float, default=(0.75, 0.5, 0.25)
        Further examples, two each, from around these quantiles of the values.
    n_neighbors : int, default=6
        Nearest latents by decoder cosine.
    before, after : int, default=16 and 8
        Most tokens around an example's own.

    Returns
    -------
    dict
        Ready for JSON.
    """
    n_top = check_int("n_top", n_top, low=1)
    found = top_examples(encoded, n_top=CANDIDATES * n_top)
    values, rows, groups = choose_examples(found, n_top, quantiles, before)
    model = encoded.model
    atoms = (model.left, model.right) if isinstance(model, Bilinear) else (model.W_dec, None)
    nearest, cosines = nearest_latents(atoms[0], n_neighbors, right=atoms[1])
    latents = torch.arange(encoded.n_latents)[:, None].expand_as(rows).reshape(-1)
    shown: dict[str, Any] = {}
    if vocabulary is not None:
        windows = token_windows(encoded, latents, rows.reshape(-1), before=before, after=after)
        shown = _pack_windows(windows, found.maximum[latents], vocabulary)
    return {
        "n_latents": encoded.n_latents,
        "n_rows": encoded.n_rows,
        "groups": groups,
        "count": pack(found.counts),
        "max": pack(found.maximum),
        "mean": pack(found.means.float()),
        "histogram": _pack_histogram(found.histogram),
        "n_neighbors": nearest.shape[1],
        "neighbors": pack(nearest),
        "cosines": pack(cosines),
        "examples_per_latent": rows.shape[1],
        "rows": pack(rows + 1),  # 0 is no example
        "values": pack(values),
        **shown,
    }


def pack(array: Tensor) -> dict[str, str]:
    """Return an array as base64 text; integers in the narrowest unsigned type that holds them."""
    if array.is_floating_point():
        plain = array.detach().cpu().float().numpy().astype("<f4")
    else:
        plain = array.cpu().numpy()
        largest = int(plain.max(initial=0))
        assert plain.min(initial=0) >= 0
        if largest >= 2**32:
            plain = plain.astype("<f8")  # exact to 2**53; JavaScript has no plain 64-bit integers
        else:
            plain = plain.astype("<u1" if largest < 2**8 else "<u2" if largest < 2**16 else "<u4")
    return {"type": plain.dtype.name, "data": base64.b64encode(plain.tobytes()).decode()}


def unpack(packed: dict[str, str]) -> np.ndarray:
    """Return the flat array that `pack` took."""
    kind = np.dtype(packed["type"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(packed["data"]), dtype=kind)


def choose_examples(
    found: LatentExamples, n_top: int, quantiles: Sequence[float], distance: int
) -> tuple[Tensor, Tensor, list[dict[str, Any]]]:
    """Return values and rows (F, E) of the examples to show, and which columns belong together."""
    values, rows = _apart(found.values, found.rows, n_top, distance)
    all_values, all_rows = [values], [rows]
    groups: list[dict[str, Any]] = [{"name": "Top activations", "size": n_top}]
    taken = rows
    for quantile in quantiles:
        values, rows = found.at_quantile(quantile, n=2)
        known = (rows[:, :, None] == taken[:, None, :]).any(2)
        rows, values = rows.masked_fill(known, -1), values.masked_fill(known, 0.0)
        taken = torch.cat([taken, rows], 1)
        all_values.append(values)
        all_rows.append(rows)
        groups.append({"name": f"Around its {100 * quantile:.0f}th percentile", "size": 2})
    return torch.cat(all_values, 1), torch.cat(all_rows, 1), groups


def _apart(values: Tensor, rows: Tensor, n: int, distance: int) -> tuple[Tensor, Tensor]:
    """Return the first `n` examples of each latent that are not within `distance` of better ones.

    Where there are fewer than `n`, the best of those left out fill up.
    """
    near = (rows[:, :, None] - rows[:, None, :]).abs() <= distance
    keep = rows >= 0
    for column in range(1, rows.shape[1]):
        keep[:, column] &= ~(near[:, column, :column] & keep[:, :column]).any(1)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :n]
    order = order.sort(dim=1).values
    return values.gather(1, order), rows.gather(1, order)


def _pack_histogram(histogram: Tensor) -> dict[str, Any]:
    """Return the bins that any latent uses, heights as a share of 255 of each latent's largest."""
    used = histogram.sum(0).nonzero().squeeze(1)
    first, last = (int(used[0]), int(used[-1]) + 1) if used.numel() else (0, 1)
    counts = histogram[:, first:last].double()
    heights = 255.0 * counts / counts.amax(1, keepdim=True).clamp(min=1)
    return {
        "n_bins": last - first,
        "first_log2": (first - N_BINS // 2) / BINS_PER_OCTAVE,
        "step_log2": 1 / BINS_PER_OCTAVE,
        "heights": pack(heights.ceil().long()),
    }


def _pack_windows(
    windows: TokenWindows, maxima: Tensor, vocabulary: Sequence[str]
) -> dict[str, Any]:
    """Return the pool of tokens, the place of each window in it, and the values on its tokens."""
    inside = torch.arange(windows.token_ids.shape[1]) < windows.lengths[:, None]
    rows = windows.starts[:, None] + torch.arange(windows.token_ids.shape[1])
    pool_rows, place = rows[inside].unique(return_inverse=True)
    pool = torch.empty_like(pool_rows)
    pool[place] = windows.token_ids[inside]
    used, tokens = pool.unique(return_inverse=True)
    starts = torch.searchsorted(pool_rows, windows.starts).clamp_(max=max(0, len(pool_rows) - 1))

    texts = token_texts(vocabulary)
    fired = (windows.activations > 0) & inside
    share = (windows.activations / maxima[:, None].clamp(min=1e-30))[fired]
    return {
        "vocabulary": [texts[i] if i < len(texts) else f" <{i}>" for i in used.tolist()],
        "spelling": spelling_of(vocabulary),
        "tokens": pack(tokens),
        "starts": pack(starts),
        "lengths": pack(windows.lengths),
        "centers": pack(windows.centers),
        "n_fired": pack(fired.sum(1)),
        "fired_at": pack(fired.nonzero()[:, 1]),
        "fired_share": pack((255.0 * share).ceil().clamp(1, 255).long()),
    }
