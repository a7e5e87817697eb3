"""Probes: what labels can be read from codes, from all of them or from k latents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sae.autoencoders import AbstractAutoencoder
from sae.cache import as_source
from sae.evaluation.reconstruction import evaluation_mode
from sparsecode._checks import check_float, check_int

ROWS_AT_A_TIME = 4096


def probe(
    model: AbstractAutoencoder,
    data: Any,
    labels: Any,
    *,
    ks: Sequence[int] = (1, 2, 5, 10),
    test_fraction: float = 0.25,
    max_rows: int | None = 20_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Predict labels of rows from their codes by logistic regression.

    A k-sparse probe sees the k latents whose means differ most between a class and the rest, scaled
    by the largest value of each; classes are told apart one against the rest, the probe of
    each class on its own k latents, on as many rows of the class as of others.

    Parameters
    ----------
    model : AbstractAutoencoder
    data : cache folder, cache, ``.npy`` file, array or tensor of N rows
    labels : sequence of N ints or strings
        Negative numbers and empty strings are no label; those rows are left out.
    ks : sequence of int, default=(1, 2, 5, 10)
    test_fraction : float, default=0.25
        Of the rows, at random.
    max_rows : int or None, default=20_000
        Look at no more rows than this, at random; None looks at all.
    seed : int, default=0

    Returns
    -------
    dict
        Ready for JSON: ``accuracy_codes`` and ``accuracy_activations`` of probes on everything,
        ``accuracy_majority`` of always saying the most frequent label, ``accuracy_at_k`` (mean over
        classes of the balanced accuracy on test rows), ``latents`` (class to its best latent),
        ``n_classes`` and ``n_rows``.

    Raises
    ------
    ValueError
        If there is not one label a row, or fewer than two classes have enough rows.

    References
    ----------
    Gurnee et al. (2023), "Finding Neurons in a Haystack: Case Studies with Sparse Probing".
    arXiv:2305.01610. Karvonen et al. (2025), "SAEBench", sec. 3.2 (mean difference).
    arXiv:2503.09532. Differs from the latter in: the probe of a class is fitted on balanced rows.
    """
    test_fraction = check_float("test_fraction", test_fraction, low=0.0, high=1.0, open_low=True)
    chosen, y = labelled_rows(data, labels, max_rows, seed, model.row_width)
    train, test = split_rows(y, test_fraction, seed)
    codes, x = encoded(model, data, chosen)
    x = _standard(x, train)
    names = np.unique(y)
    counts = np.unique(y[train], return_counts=True)
    scale = np.asarray(np.abs(codes[train]).max(0).todense()).ravel()
    scaled: Any = codes @ sparse.diags(1 / np.where(scale > 0, scale, 1.0))
    best: dict[str, int] = {}
    sums = dict.fromkeys([check_int("ks", k, low=1, high=model.n_latents) for k in ks], 0.0)
    rng = np.random.default_rng(seed)
    for name in names:
        positive = y == name
        balanced = _balanced(positive, train, rng)
        order = ranked_latents(scaled, positive, train)
        best[str(name)] = int(order[0])
        for k in sums:
            columns = scaled[:, order[:k]].tocsr()
            fitted = fit(columns[balanced], positive[balanced])
            sums[k] += balanced_accuracy(fitted.predict(columns[test]), positive[test])
    return {
        "accuracy_codes": float(fit(scaled[train], y[train]).score(scaled[test], y[test])),
        "accuracy_activations": float(fit(x[train], y[train]).score(x[test], y[test])),
        "accuracy_majority": float((y[test] == counts[0][counts[1].argmax()]).mean()),
        "accuracy_at_k": {str(k): total / len(names) for k, total in sums.items()},
        "latents": best,
        "n_classes": len(names),
        "n_rows": len(y),
    }


def labelled_rows(
    data: Any, labels: Any, max_rows: int | None, seed: int, n_features: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows have a label that enough others share, ascending, and the labels.

    Parameters
    ----------
    data : anything that `sae.cache.as_source` takes
    labels : sequence
    max_rows : int or None
    seed : int
    n_features : int
    """
    y = np.asarray(labels)
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y.flat):
        y = y.astype(str)  # a column of a data frame
    if y.dtype.kind not in "biufU":
        raise TypeError(
            f"`labels` must be numbers or strings, one kind of them; got an array of {y.dtype}. "
            "A row without a label has -1 or an empty string."
        )
    y = y.astype(int) if y.dtype.kind == "b" else y
    n_rows = as_source(data, n_features=n_features).n_rows
    if y.shape != (n_rows,):
        raise ValueError(
            f"`labels` must hold one label for each of {n_rows} rows; got shape {y.shape}."
        )
    known = np.flatnonzero(y >= 0 if y.dtype.kind in "iuf" else y != "")
    if max_rows is not None and len(known) > check_int("max_rows", max_rows, low=1):
        known = np.sort(np.random.default_rng(seed).choice(known, max_rows, replace=False))
    names, counts = np.unique(y[known], return_counts=True)
    known = known[np.isin(y[known], names[counts >= 8])]
    if len(np.unique(y[known])) < 2:
        raise ValueError(
            "`labels` must hold at least two classes with 8 rows each; got "
            f"{dict(zip(names.tolist(), counts.tolist(), strict=True))}."
        )
    return known, y[known]


def split_rows(y: np.ndarray, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test rows, each class in both.

    Parameters
    ----------
    y : ndarray of shape (N,)
    test_fraction : float
    seed : int
    """
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(y)), test_size=test_fraction, stratify=y, random_state=seed
    )
    return np.sort(train), np.sort(test)


def encoded(model: AbstractAutoencoder, data: Any, rows: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return codes and inputs of some rows.

    Parameters
    ----------
    model : AbstractAutoencoder
    data : anything that `sae.cache.as_source` takes
    rows : ndarray of shape (N,), int64
    """
    source = as_source(data, n_features=model.row_width)
    weight = model.b_dec
    codes: list[Any] = []
    inputs: list[np.ndarray] = []
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        x = source.take(rows[start : start + ROWS_AT_A_TIME]).to(weight.device, weight.dtype)
        with torch.no_grad(), evaluation_mode(model):
            x, _ = model.input_and_target(x)
            codes.append(model.encode(x).to_scipy())
        inputs.append(x.float().cpu().numpy())
    return sparse.vstack(codes, format="csr"), np.concatenate(inputs)


def ranked_latents(codes: Any, positive: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return latents by how much their means differ between the rows of a class and the others.

    Parameters
    ----------
    codes : csr_matrix of shape (N, F)
    positive : ndarray of shape (N,), bool
    train : ndarray of int64
        Rows to look at.
    """
    inside, outside = train[positive[train]], train[~positive[train]]
    gap = np.abs(codes[inside].mean(0) - codes[outside].mean(0))
    return np.argsort(-np.asarray(gap).ravel(), kind="stable")


def fit(x: Any, y: np.ndarray) -> Any:
    """Return a logistic regression that was fitted to rows.

    Parameters
    ----------
    x : ndarray or csr_matrix of shape (N, F)
    y : ndarray of shape (N,)
    """
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000, tol=1e-3).fit(x, y)


def balanced_accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean of the shares of positives and of negatives that were told right.

    Parameters
    ----------
    predicted, truth : ndarray of shape (N,), bool
    """
    return float((predicted[truth].mean() + (~predicted[~truth]).mean()) / 2)


def first_letters(cache: Any, n_rows: int | None = None) -> np.ndarray:
    """Return the first letter of each row's token where that begins a word, else "".

    Parameters
    ----------
    cache : Cache
        With a vocabulary.
    n_rows : int or None, default=None
        None takes all rows.

    Returns
    -------
    ndarray of shape (N,), str
    """
    if cache.vocabulary is None:
        raise ValueError("`cache` must have a vocabulary for labels from tokens; it has none.")
    marks = {piece[:1] for piece in cache.vocabulary} & {"\u0120", "\u2581"}
    letters = np.array([_first_letter(piece, marks) for piece in cache.vocabulary])
    ids: Tensor = cache.token_ids(0, n_rows or cache.n_rows)
    return letters[ids.numpy()]


def _first_letter(piece: str, marks: set[str]) -> str:
    starts = piece[:1] in marks if marks else not piece.startswith("##")
    letter = piece[len(marks) > 0 :][:1].lower() if starts else ""
    return letter if letter.isascii() and letter.isalpha() else ""


def _balanced(positive: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    inside, outside = train[positive[train]], train[~positive[train]]
    size = min(len(inside), len(outside))
    picked = [rng.choice(part, size, replace=False) for part in (inside, outside)]
    return np.concatenate(picked)


def _standard(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    scale = x[train].std(0)
    return (x - x[train].mean(0)) / np.where(scale > 0, scale, 1.0)
