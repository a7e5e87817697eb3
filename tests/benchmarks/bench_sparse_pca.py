"""Sparse PCA against scikit-learn's on 10,000 rows of 784 features, to the same objective.

MNIST if SPARSECODE_DATA names its folder, else sums of sparse parts; alpha=1. One number judges all
contenders: the objective ``1/2 ||X - U V||^2 + alpha ||V||_1`` of their components, with the
lengths of V and the scores U that are best for them, by a function that knows none of them. A time
stands only beside an objective; ratios are to ours, above 1 is slower than ours.

scikit-learn's `SparsePCA` takes minutes for its 1,000 iterations here (LOG.md). It is stopped after
`SKLEARN_ITERATIONS` of its faster method: while its objective is higher, its ratio is a lower
bound.
`MiniBatchSparsePCA` runs with its defaults, and with the settings of the SPCA defense paper's code
(batches of 256). Processor time (`cpu_ms`) is given beside wall time: on a busy machine only that
is comparable, and only with one thread.
"""

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import MiniBatchSparsePCA
from sklearn.decomposition import SparsePCA as SklearnSparsePCA
from sklearn.exceptions import ConvergenceWarning

from sparsecode.decomposition import SparsePCA

ALPHA = 1.0
ROWS, FEATURES = 10_000, 784
SKLEARN_ITERATIONS = 60
SWEEPS = 30
TOLERANCE = 1e-3  # of the objective: closer than that counts as the same


def data(smoke: bool) -> tuple[str, np.ndarray]:
    """Return a name and the rows."""
    file = Path(os.environ.get("SPARSECODE_DATA", "/nowhere")) / "mnist_17k.npz"
    if file.exists() and not smoke:
        with np.load(file) as content:
            return "MNIST", content["x_train"][:ROWS].reshape(-1, FEATURES) / 255.0
    rng = np.random.default_rng(0)
    n, p = (300, 40) if smoke else (ROWS, FEATURES)
    parts = rng.normal(size=(p // 8, p)) * (rng.random((p // 8, p)) < 0.1)
    return "synthetic", rng.normal(size=(n, p // 8)) @ parts + 0.5 * rng.normal(size=(n, p))


def objective(X: np.ndarray, components: np.ndarray) -> float:
    """Return the objective of directions, at nearly the best lengths and scores for them.

    Block coordinate descent over components: with everything else fixed, the best unit scores are
    along the residual's projection, and the best length is a soft threshold.
    """
    values, vectors = np.linalg.eigh(X.T @ X)
    rows = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T  # same scatter, fewer rows
    norms = np.linalg.norm(components, axis=1)
    directions = components[norms > 0] / norms[norms > 0, None]
    costs = ALPHA * np.abs(directions).sum(1)
    scores = rows @ directions.T
    lengths = np.linalg.norm(scores, axis=0) / 2
    scores /= np.linalg.norm(scores, axis=0)
    images, gram = rows @ directions.T, directions @ directions.T
    for _ in range(SWEEPS):
        for j in range(len(directions)):
            others = lengths * gram[j]
            others[j] = 0
            along = images[:, j] - scores @ others
            size = np.linalg.norm(along)
            scores[:, j] = along / max(size, 1e-300)
            lengths[j] = max(size - costs[j], 0.0)
    residual = rows - (scores * lengths) @ directions
    return float(0.5 * np.square(residual).sum() + (costs * lengths).sum())


def _timed(make: Callable[[], Any], X: np.ndarray) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = make().fit(X)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3, fitted


def _peers(k: int, smoke: bool) -> dict[str, Callable[[], Any]]:
    iterations = 3 if smoke else SKLEARN_ITERATIONS
    common = {"alpha": ALPHA, "random_state": 0}
    return {
        f"sklearn SparsePCA, {iterations} iterations": lambda: SklearnSparsePCA(
            k, method="cd", max_iter=iterations, **common
        ),
        "sklearn MiniBatchSparsePCA": lambda: MiniBatchSparsePCA(k, **common),
        "sklearn MiniBatchSparsePCA, batch 256": lambda: MiniBatchSparsePCA(
            k, method="cd", max_iter=30, batch_size=256, **common
        ),
    }


def _case(name: str, X: np.ndarray, k: int, device: str, smoke: bool) -> list[dict]:
    case = f"{name} {X.shape[0]} x {X.shape[1]}, k={k}"
    ours = lambda: SparsePCA(k, alpha=ALPHA, device=device)  # noqa: E731
    ours().fit(X[:100])
    centered = X - X.mean(0)
    rows, times = [], []
    for peer, make in _peers(k, smoke).items():
        # Ours directly before each peer, so that a slow minute hits both.
        wall, cpu, fitted = _timed(ours, X)
        times.append((wall, cpu))
        peer_wall, peer_cpu, peer_fitted = _timed(make, X)
        reached, theirs = (objective(centered, f.components_) for f in (fitted, peer_fitted))
        row = {"case": case, "name": peer, "objective": theirs, "objective_ratio": theirs / reached}
        if reached > theirs * (1 + TOLERANCE):
            rows.append(row | {"status": f"WRONG: ours ends higher, at {reached:.6g}"})
            continue
        row |= {"ms": peer_wall, "cpu_ms": peer_cpu}
        ratios = {"ratio": peer_wall / wall, "cpu_ratio": peer_cpu / cpu}
        rows.append(row | ratios | {"status": "ok"})
    wall, cpu = np.median(times, axis=0).tolist()
    first = {"case": case, "name": "sparsecode", "objective": reached, "objective_ratio": 1.0}
    nonzero = float((fitted.components_ != 0).mean())
    details = {"n_iter": fitted.n_iter_, "nonzero": nonzero, "status": "ok"}
    return [first | {"ms": wall, "cpu_ms": cpu} | details, *rows]


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return one row per contender and number of components."""
    name, X = data(smoke)
    rows = []
    for k in (4,) if smoke else (20, 50):
        rows += _case(name, X, k, device, smoke)
    return rows
