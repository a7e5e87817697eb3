"""How many active units penalties need for the same error on patches of natural images.

The protocol of Rentzeperis, Calatroni, Perrinet & Prandi (2023), "Beyond l1 sparse coding in V1",
arXiv:2301.10002, in small: scikit-learn's two sample images, whitened by ``rho exp(-(rho / f0)^4)``
with f0 at 0.4 of the Nyquist frequency; patches of 12 x 12 pixels; 288 units learned with each
penalty from 80 batches of 250 patches. The error is that of 1,000 other patches, as a share of
their power, and L0 the mean number of active units; the other penalties have two weights with
errors on both sides of that of soft thresholding.

"at_matched_error" is L0 at the error of soft thresholding, interpolated in the logarithms;
"share_of_soft" divides by the L0 of soft thresholding. All is done with three seeds, of the patches
and of the first units; the status says whether the share of *every* seed is low enough.
"""

import math
import time
import warnings

import numpy as np
import torch

from sparsecode.decomposition import DictionaryLearning
from sparsecode.penalties import CEL0, L1, AbstractPenalty, LHalf
from sparsecode.solvers import ISTA

SIDE, UNITS, BATCH, N_BATCHES, N_TEST = 12, 288, 250, 80, 1000
WANTED = 0.65  # of the active units of soft thresholding
SEEDS = (0, 1, 2)
SOFT = 1.0  # error 0.04 to 0.05
WEIGHTS: dict[str, tuple[type, tuple[float, float]]] = {
    "half": (LHalf, (0.5, 1.0)),
    "CEL0": (CEL0, (1.0, 2.0)),
}


def whitened(image: np.ndarray) -> np.ndarray:
    """Return an image with the spectrum of natural images taken away, of variance 1."""
    height, width = image.shape
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    rho = np.hypot(rows, columns)
    spectrum = np.fft.fft2(image) * rho * np.exp(-((rho / (0.4 * 0.5)) ** 4))
    result = np.fft.ifft2(spectrum).real
    return result / result.std()


def patches(n_rows: int, seed: int) -> torch.Tensor:
    """Return patches of both images."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    parts = []
    for image in load_sample_images().images:
        view = np.lib.stride_tricks.sliding_window_view(whitened(image.mean(2)), (SIDE, SIDE))
        flat = view.reshape(-1, SIDE, SIDE)
        parts.append(flat[rng.choice(len(flat), n_rows // 2, replace=False)])
    rows = rng.permutation(np.concatenate(parts).reshape(-1, SIDE * SIDE))
    return torch.from_numpy(rows).float()


def point(penalty: AbstractPenalty, train: torch.Tensor, test: torch.Tensor, seed: int) -> dict:
    """Return error and L0 of units learned with a penalty."""
    start = time.perf_counter()
    model = DictionaryLearning(
        min(UNITS, len(train)),
        penalty=penalty,
        solver=ISTA(max_iter=40, tol=1e-2),
        batch_size=BATCH,
        max_epochs=1,
        random_state=seed,
    )
    for part in train.split(BATCH):
        model.partial_fit(part)
    atoms = torch.from_numpy(model.components_).to(test)
    found = ISTA(max_iter=300, tol=1e-3).solve(test, atoms, penalty=penalty, warn=False)
    left = test - found.codes.to_dense() @ atoms
    return {
        "error": float(left.square().sum() / test.square().sum()),
        "l0": float(found.codes.n_active.double().mean()),
        "seconds": time.perf_counter() - start,
    }


def at_error(points: list[dict], error: float) -> float:
    """Return L0 at an error, on the line through two points, in logarithms."""
    (e0, l0), (e1, l1) = ((math.log(row["error"]), math.log(row["l0"])) for row in points)
    return math.exp(l0 + (l1 - l0) * (math.log(error) - e0) / (e1 - e0))


def one_seed(seed: int, *, device: str, smoke: bool) -> list[dict]:
    """Return a row per penalty and weight; the shares of soft thresholding in the first of each."""
    n_train = 500 if smoke else N_BATCHES * BATCH
    data = patches(n_train + (100 if smoke else N_TEST), seed).to(device)
    train, test = data[:n_train], data[n_train:]
    soft = {"seed": seed, "penalty": "soft", "alpha": SOFT} | point(L1(SOFT), train, test, seed)
    rows = [soft]
    for name, (kind, weights) in WEIGHTS.items():
        found = [
            {"seed": seed, "penalty": name, "alpha": alpha} | point(kind(alpha), train, test, seed)
            for alpha in weights
        ]
        matched = at_error(found, soft["error"])
        inside = found[0]["error"] <= soft["error"] <= found[1]["error"]
        found[0] |= {"at_matched_error": matched, "share_of_soft": matched / soft["l0"]}
        found[0] |= {"between": inside}
        rows += found
    return rows


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return a row per seed, penalty and weight, and a last one per penalty over the seeds."""
    rows: list[dict] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps on a batch are few on purpose
        for seed in SEEDS[: 1 if smoke else None]:
            rows += one_seed(seed, device=device, smoke=smoke)
            print(*rows[-5:], sep="\n", flush=True)
    for name in WEIGHTS:
        own = [row for row in rows if row["penalty"] == name and "between" in row]
        shares = [row["share_of_soft"] for row in own]
        held = max(shares) <= WANTED and all(row["between"] for row in own)
        summary = {"seed": "all", "penalty": name, "share_of_soft": sum(shares) / len(shares)}
        summary |= {"lowest": min(shares), "highest": max(shares), "wanted": WANTED}
        status = "ok" if held else "more units than wanted, or not matched"
        rows.append(summary if smoke else summary | {"status": status})
    return rows
