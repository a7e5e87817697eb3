"""How many active units penalties need for the same error on patches of natural images.

The protocol of Rentzeperis, Calatroni, Perrinet & Prandi (2023), "Beyond l1 sparse coding in V1",
arXiv:2301.10002, in small: scikit-learn's two sample images, whitened by ``rho exp(-(rho / f0)^4)``
with f0 at 0.4 of the Nyquist frequency; patches of 12 x 12 pixels; 288 units learned with each
penalty from 80 batches of 250 patches. For each penalty a few weights; the error is that of 1,000
other patches, as a share of their power, and L0 the mean number of active units.

"at_matched_error" is L0 at the error of the middle soft-thresholding point, interpolated in the
logarithms; "share_of_soft" divides by that of soft thresholding.
"""

import math
import time

import numpy as np
import torch

from sparsecode.decomposition import DictionaryLearning
from sparsecode.penalties import CEL0, L0, L1, AbstractPenalty, LHalf
from sparsecode.solvers import ISTA

SIDE, UNITS, BATCH, N_BATCHES, N_TEST = 12, 288, 250, 80, 1000
WANTED = 0.65  # of the active units of soft thresholding
WEIGHTS: dict[str, tuple[type, tuple[float, ...]]] = {
    "soft": (L1, (0.5, 1.0, 2.0)),
    "half": (LHalf, (0.25, 0.5, 1.0)),
    "CEL0": (CEL0, (0.5, 1.0, 2.0)),
    "hard": (L0, (0.5, 1.0, 2.0)),
}


def whitened(image: np.ndarray) -> np.ndarray:
    """Return an image with the spectrum of natural images taken away, of variance 1."""
    height, width = image.shape
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    rho = np.hypot(rows, columns)
    spectrum = np.fft.fft2(image) * rho * np.exp(-((rho / (0.4 * 0.5)) ** 4))
    result = np.fft.ifft2(spectrum).real
    return result / result.std()


def patches(n_rows: int) -> torch.Tensor:
    """Return patches of both images."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    parts = []
    for image in load_sample_images().images:
        view = np.lib.stride_tricks.sliding_window_view(whitened(image.mean(2)), (SIDE, SIDE))
        flat = view.reshape(-1, SIDE, SIDE)
        parts.append(flat[rng.choice(len(flat), n_rows // 2, replace=False)])
    rows = rng.permutation(np.concatenate(parts).reshape(-1, SIDE * SIDE))
    return torch.from_numpy(rows).float()


def point(penalty: AbstractPenalty, train: torch.Tensor, test: torch.Tensor) -> dict:
    """Return error and L0 of units learned with a penalty."""
    start = time.perf_counter()
    model = DictionaryLearning(
        min(UNITS, len(train)),
        penalty=penalty,
        solver=ISTA(max_iter=40, tol=1e-2),
        batch_size=BATCH,
        max_epochs=1,
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
    """Return L0 at an error, on the line through the two points next to it, in logarithms."""
    logs = sorted((math.log(row["error"]), math.log(row["l0"])) for row in points)
    target = math.log(error)
    i = min(max(sum(log < target for log, _ in logs), 1), len(logs) - 1)
    (e0, l0), (e1, l1) = logs[i - 1], logs[i]
    return math.exp(l0 + (l1 - l0) * (target - e0) / (e1 - e0))


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return a row per penalty and weight."""
    import warnings

    n_train = 500 if smoke else N_BATCHES * BATCH
    data = patches(n_train + (100 if smoke else N_TEST)).to(device)
    train, test = data[:n_train], data[n_train:]
    rows, soft = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # steps on a batch are few on purpose
        for name, (kind, weights) in WEIGHTS.items():
            found = [{"penalty": name, "alpha": a} | point(kind(a), train, test) for a in weights]
            soft = found if name == "soft" else soft
            middle = soft[1]
            share = at_error(found, middle["error"]) / middle["l0"]
            found[1] |= {"at_matched_error": share * middle["l0"], "share_of_soft": share}
            inside = found[0]["error"] <= middle["error"] <= found[-1]["error"]
            if name in ("half", "CEL0"):
                held = share <= WANTED and inside
                found[1]["status"] = "ok" if held else "more units than wanted, or not matched"
            rows += found
            print(*found, sep="\n", flush=True)
    return rows
