"""Learned encoders against the iterations that they stand in for.

MNIST in 80 principal components if SPARSECODE_DATA names its folder, else scikit-learn's digits; a
learned dictionary (200 atoms), the lasso at ``alpha=0.5`` of rows of norm about 8. Rows that no
model has seen judge: the mean objective of the encoder in one pass; of FISTA after 1 to 10 steps
from zeros and from the prediction; and of FISTA after 300 steps, with the times of both.
"""

import os
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from sparsecode.decomposition import PredictiveSparseDecomposition
from sparsecode.penalties import L1
from sparsecode.solvers import FISTA

ALPHA = 0.5
STEPS = (1, 2, 3, 4, 5, 10)


def data(smoke: bool) -> tuple[str, torch.Tensor]:
    """Return a name and rows of norm about 8."""
    file = Path(os.environ.get("SPARSECODE_DATA", "/nowhere")) / "mnist_17k.npz"
    if file.exists() and not smoke:
        with np.load(file) as content:
            rows = torch.from_numpy(content["x_train"][:10_000].reshape(-1, 784) / 255.0)
        name, k = "MNIST", 80
    else:
        name, rows, k = "digits", torch.from_numpy(load_digits().data), 40
    rows = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    rows = (rows @ vectors[:, -k:]).float()
    return name, rows * (8 / rows.norm(dim=1).mean())


def _objective(x: torch.Tensor, atoms: torch.Tensor, z: torch.Tensor) -> float:
    return float(((x - z @ atoms).square().sum(1) / 2 + ALPHA * z.abs().sum(1)).mean())


def _case(encoder: str, train: torch.Tensor, test: torch.Tensor, smoke: bool) -> list[dict]:
    n_atoms = 50 if smoke else 200
    began = time.perf_counter()
    model = PredictiveSparseDecomposition(
        n_atoms,
        alpha=ALPHA,
        encoder=encoder,
        prediction_weight=0.3 if encoder == "tanh" else 0.0,
        max_epochs=2 if smoke else 20,
    ).fit(train)
    row = {"encoder": encoder, "training_s": time.perf_counter() - began}
    atoms = torch.from_numpy(model.components_)
    penalty = L1(ALPHA)

    def fista(n: int, start: torch.Tensor | None = None) -> float:
        solver = FISTA(max_iter=n, tol=0.0)
        return float(
            solver.solve(test, atoms, penalty=penalty, start=start, warn=False).objective.mean()
        )

    predicted = model.transform(test)
    times = {"encoder": [], "fista": []}
    for _ in range(5):
        start = time.perf_counter()
        model.module_(test)
        times["encoder"].append(time.perf_counter() - start)
    for _ in range(2):
        start = time.perf_counter()
        best = fista(300)
        times["fista"].append(time.perf_counter() - start)
    reached = _objective(test, atoms, predicted)
    zero = _objective(test, atoms, torch.zeros_like(predicted))
    row |= {"zero": zero, "encoder_objective": reached, "fista_300": best}
    row["times_faster"] = min(times["fista"]) / min(times["encoder"])
    cold, warm = ([fista(n, start) for n in STEPS] for start in (None, predicted))
    row |= {f"cold_{n}": value for n, value in zip(STEPS, cold, strict=True)}
    row |= {f"warm_{n}": value for n, value in zip(STEPS, warm, strict=True)}
    holds = {
        "50 x faster": row["times_faster"] >= 50,
        "below half way": reached < (zero + best) / 2,
        "warm start lower for five steps": all(w < c for w, c in zip(warm[:5], cold, strict=False)),
    }
    if encoder == "lista":
        holds["no worse than five steps"] = reached <= cold[4]
    missed = [name for name, held in holds.items() if not held]
    return [row | {"status": "missed: " + ", ".join(missed) if missed else "ok"}]


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return a row per encoder."""
    name, rows = data(smoke)
    n_test = len(rows) // 5
    train, test = rows[n_test:].to(device), rows[:n_test].to(device)
    found = []
    for encoder in ("tanh", "lista"):
        found += [{"data": name} | row for row in _case(encoder, train, test, smoke)]
    return found
