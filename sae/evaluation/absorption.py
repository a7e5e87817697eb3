"""Feature absorption: a latent that is silent where a more special one speaks for it."""

from typing import Any

import numpy as np
import torch
from scipy import sparse

from sae.autoencoders import AbstractAutoencoder, ReconstructsProducts
from sae.evaluation.probing import (
    encoded,
    fit,
    labelled_rows,
    ranked_latents,
    split_rows,
)
from sae.row_norm import decoder_factor
from sparsecode._checks import check_float, check_int

COSINE = 0.025  # of an absorbing latent with the direction of the class, at least
SHARE = 0.4  # of a row's projection on that direction that its latent gives, at least


def absorption(
    model: AbstractAutoencoder,
    data: Any,
    labels: Any,
    *,
    max_main: int = 5,
    gain: float = 0.03,
    test_fraction: float = 0.25,
    max_rows: int | None = 20_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure how often a class's own latents are silent while another one carries the class.

    For each class a linear probe on the activations gives its direction w, and k-sparse probes its
    main latents: one more is taken as long as it raises the F1 score by more than `gain`. A test
    row of the class that the probe recognizes is absorbed if all main latents are silent and the
    latent with the largest projection ``a_i W_dec_i . w`` has a cosine of at least 0.025 with w
    and at least 0.4 of the row's own centered projection on it.

    Parameters
    ----------
    model : AbstractAutoencoder
    data : cache folder, cache, ``.npy`` file, array or tensor of N rows
    labels : sequence of N ints or strings
        As for `probe`; `first_letters` gives the labels of the paper.
    max_main : int, default=5
        Most main latents of a class.
    gain : float, default=0.03
    test_fraction : float, default=0.25
    max_rows : int or None, default=20_000
    seed : int, default=0

    Returns
    -------
    dict
        Ready for JSON: ``absorption_rate`` (mean over classes that the probe recognizes on at least
        5 test rows, None if there is none), ``main_latents`` (mean number), ``n_classes``, and
        ``classes``: for each its ``rate``, ``main`` latents and ``n`` recognized rows.

    References
    ----------
    Chanin et al. (2024), "A is for Absorption: Studying Feature Splitting and Absorption in Sparse
    Autoencoders", sec. 4 and appendix. arXiv:2409.14507. Differs from it in: labels of any kind; no
    ablation of the latent, as in SAEBench (arXiv:2503.09532), whose thresholds these are.
    """
    if isinstance(model, ReconstructsProducts):
        raise TypeError(
            f"`model` must decode to activations for a cosine with a probe; "
            f"{type(model).__name__} reconstructs products of them."
        )
    max_main = check_int("max_main", max_main, low=1)
    gain = check_float("gain", gain, low=0.0)
    chosen, y = labelled_rows(data, labels, max_rows, seed, model.row_width)
    train, test = split_rows(y, test_fraction, seed)
    codes, x = encoded(model, data, chosen)
    rows = model.W_dec.detach().double().cpu().numpy()
    if rows.shape[1] != x.shape[1]:
        raise TypeError(
            f"`model` must decode to what it encodes for a cosine with a probe; "
            f"{type(model).__name__} predicts something else."
        )
    factor = decoder_factor(torch.from_numpy(x), model.row_norm).numpy()[:, 0]
    codes_here = sparse.diags(factor) @ codes  # what a latent adds to the row as it is
    center = x[train].mean(0)
    probe = fit((x - center)[train], y[train])
    weights, names = probe.coef_, probe.classes_
    if len(names) == 2:
        weights = np.concatenate([-weights, weights])
    said = probe.predict((x - center)[test])
    found: dict[str, dict[str, Any]] = {}
    for name, weight in zip(names, weights, strict=True):
        direction = weight / np.linalg.norm(weight)
        main = main_latents(codes, y == name, train, max_main, gain)
        hits = test[(y[test] == name) & (said == name)]
        projection = (x[hits] - center) @ direction
        absorbed = _absorbed(codes_here[hits], rows, direction, projection, main)
        if len(hits) >= 5:
            found[str(name)] = {"rate": float(absorbed.mean()), "main": main, "n": len(hits)}
    rates = [entry["rate"] for entry in found.values()]
    sizes = [len(entry["main"]) for entry in found.values()]
    return {
        "absorption_rate": float(np.mean(rates)) if rates else None,
        "main_latents": float(np.mean(sizes)) if sizes else None,
        "n_classes": len(found),
        "classes": found,
    }


def main_latents(
    codes: Any, positive: np.ndarray, train: np.ndarray, most: int, gain: float
) -> list[int]:
    """Return the latents that a class is split into.

    Parameters
    ----------
    codes : csr_matrix of shape (N, F)
    positive : ndarray of shape (N,), bool
    train : ndarray of int64
    most : int
    gain : float
        What each further latent must add to the F1 score.
    """
    from sklearn.metrics import f1_score

    order = ranked_latents(codes, positive, train)[:most]
    best = 0.0
    for size in range(1, len(order) + 1):
        columns = codes[train][:, order[:size]]
        score = f1_score(positive[train], fit(columns, positive[train]).predict(columns))
        if size > 1 and score <= best + gain:
            return order[: size - 1].tolist()
        best = float(score)
    return order.tolist()


def _absorbed(
    codes: Any,
    rows: np.ndarray,
    direction: np.ndarray,
    projection: np.ndarray,
    main: list[int],
) -> np.ndarray:
    """Return which rows are absorbed, bool of shape (N,)."""
    along = rows @ direction
    cosines = along / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    given = np.asarray((codes @ sparse.diags(along)).todense())
    top = given.argmax(1)
    silent = np.asarray((codes[:, main] > 0).sum(1)).ravel() == 0
    largest = given[np.arange(len(top)), top]
    enough = (projection > 0) & (largest >= SHARE * projection)
    return silent & enough & (cosines[top] >= COSINE)
