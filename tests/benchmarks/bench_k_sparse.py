"""k-sparse autoencoders on MNIST: errors of a linear classifier, and units that never fire.

The protocol of Makhzani & Frey (2013), "k-Sparse Autoencoders", arXiv:1312.5663, at a smaller size:
10,000 training images, 1,000 tied linear units that start small, Adam at 1e-3, batches of 256, 14
epochs; k falls from 100 over the first seven ("scheduled"), or is the same throughout. The
classifier is one
softmax layer on standardized codes of the ``alpha k`` largest activations, 20 epochs, 10,000 test
images. "dense" keeps all units: a linear autoencoder. "raw" are the pixels themselves.

"error" is in percent; "dead" is the share of units that are among the k largest for no training
image. A status says whether a scheduled run has less than 0.6 times the error of "dense", whether
the unscheduled one has more than twice the dead units of the scheduled one with its k, and whether
twice the units at inference do no harm up to k = 40. Needs SPARSECODE_DATA, the folder of
``mnist_17k.npz``; digits of 8 x 8 pixels stand in for a smoke run.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import sae

N_SEEDS, N_TRAIN, N_UNITS = 3, 10_000, 1000
N_EPOCHS, BATCH, RATE, K_START = 14, 256, 1e-3, 100
CLASSIFIER_EPOCHS = 20
SCHEDULED = (10, 25, 40, 70)
SHARE_OF_DENSE, TIMES_DEAD = 0.6, 2.0
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def images(smoke: bool) -> Data | None:
    """Return training rows, their labels, test rows and theirs; pixels in [0, 1]."""
    if smoke:
        X, y = load_digits(return_X_y=True)
        rows = torch.from_numpy(X).float() / 16
        return rows[:1000], torch.from_numpy(y[:1000]), rows[1000:], torch.from_numpy(y[1000:])
    file = Path(os.environ.get("SPARSECODE_DATA", "/nowhere")) / "mnist_17k.npz"
    if not file.exists():
        return None
    with np.load(file) as content:
        parts = [torch.from_numpy(content[f"{kind}_{side}"]) for side in ("train", "test")
                 for kind in ("x", "y")]  # fmt: skip
    X, y, Z, w = parts
    X, Z = (pixels.reshape(-1, 784).float() / 255 for pixels in (X, Z))
    return X[:N_TRAIN], y[:N_TRAIN].long(), Z, w.long()


def train(X: Tensor, k: int, k_start: int | None, *, n_units: int, n_epochs: int, seed: int):
    """Return a `sae.KSparse` trained on the rows of `X`."""
    model = sae.KSparse(
        n_features=X.shape[1], n_latents=n_units, k=k, k_start=k_start, start="small", seed=seed
    )
    config = sae.TrainConfig(
        batch_size=BATCH, n_steps=n_epochs * (len(X) // BATCH), lr=RATE, warmup_share=0.0,
        decay_share=0.0, heldout_fraction=0.0, seed=seed, progress=False,
    )  # fmt: skip
    return sae.Trainer(model, X, config).fit().model


@torch.no_grad()
def codes_of(model: sae.KSparse, X: Tensor, k: int) -> Tensor:
    """Return dense codes of the `k` largest activations of each row."""
    return torch.cat([model.encode(part, k=k).to_dense() for part in X.split(2000)])


def classification_error(train_side: tuple[Tensor, Tensor], test_side: tuple[Tensor, Tensor]):
    """Return the percentage of test rows that a softmax layer on standardized rows gets wrong."""
    (X, y), (Z, w) = train_side, test_side
    mean, deviation = X.mean(0), X.std(0).clamp(min=1e-3)
    X, Z = (X - mean) / deviation, (Z - mean) / deviation
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(X.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), lr=RATE)
    for _ in range(CLASSIFIER_EPOCHS):
        for batch in torch.randperm(len(X), generator=generator).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(X[batch]), y[batch]).backward()
            optimizer.step()
    return 100 * float((layer(Z).argmax(1) != w).double().mean())


def measured(data: Data, k: int, k_start: int | None, *, seed: int, smoke: bool) -> dict[str, Any]:
    """Return the figures of one trained autoencoder."""
    X, y, Z, w = data
    began = time.perf_counter()
    n_units = 100 if smoke else N_UNITS
    model = train(X, k, k_start, n_units=n_units, n_epochs=2 if smoke else N_EPOCHS, seed=seed)
    row: dict[str, Any] = {"fit seconds": time.perf_counter() - began}
    for alpha in (1, 2) if k < n_units else (1,):
        kept = min(n_units, alpha * k)
        codes, test_codes = codes_of(model, X, kept), codes_of(model, Z, kept)
        if alpha == 1:
            row["dead"] = float((codes == 0).all(0).double().mean())
        row[f"error alpha={alpha}"] = classification_error((codes, y), (test_codes, w))
    return row


def judged(rows: list[dict]) -> list[dict]:
    """Add a status to the rows of one seed that the protocol says something about."""
    found = {(row["model"], row["k"]): row for row in rows}
    dense = found["dense", N_UNITS]["error alpha=1"]
    for (model, k), row in found.items():
        if model == "unscheduled":
            holds = row["dead"] > TIMES_DEAD * found["scheduled", k]["dead"]
        elif model == "scheduled":
            holds = k < 25 or row["error alpha=1"] < SHARE_OF_DENSE * dense
            holds &= k > 40 or row["error alpha=2"] <= row["error alpha=1"]
        else:
            continue
        row["status"] = "ok" if holds else "off"
    return rows


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return a row per seed and autoencoder."""
    data = images(smoke)
    if data is None:
        return [{"status": "skipped: SPARSECODE_DATA does not name a folder with MNIST"}]
    n_units = 100 if smoke else N_UNITS
    runs = [("dense", n_units, None), ("unscheduled", 10, None)]
    runs += [("scheduled", k, K_START) for k in SCHEDULED]
    rows = []
    for seed in range(1 if smoke else N_SEEDS):
        raw = classification_error(data[:2], data[2:])
        of_seed = [{"seed": seed, "model": "raw", "k": data[0].shape[1], "error alpha=1": raw}]
        for name, k, k_start in runs:
            row = measured(data, k, k_start, seed=seed, smoke=smoke)
            of_seed.append({"seed": seed, "model": name, "k": k, **row})
            print(of_seed[-1], flush=True)
        rows += of_seed if smoke else judged(of_seed)
    return rows
