"""Masked against plain dictionary learning: recovery of the true atoms from noisy data.

The synthetic protocol of Chidambaram, Wu, Cheng & Ge (2023), "Hiding data helps", arXiv:2302.12715:
1,000 rows in 100 dimensions, each a sum of 5 of 200 atoms with a code of norm 1, noise of deviation
0.1 on every entry; 500 epochs of Adam in batches of 200, OMP codes. "truth" begins at the true
atoms filled up with noisy rows, "rows" at noisy rows alone; these rows are not among those learned
from, since an atom that is a row would predict its own hidden entries. The error is the mean
cosine distance
of true atoms to their nearest learned ones.

"paper" is what the figures of the authors' repository show; the status says whether the mean over
the seeds is within 0.01 of it.
"""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import torch

from sparsecode.decomposition import MaskedDictionaryLearning
from sparsecode.metrics import recovery_error

N_SEEDS = 3
# (start, atoms) -> error of plain and of masked learning in the paper's figures.
PAPER = {
    ("truth", 200): (0.126, 0.153),
    ("truth", 1000): (0.330, 0.158),
    ("rows", 1000): (0.533, 0.384),
}
WITHIN = 0.01


def data(seed: int, n_rows: int = 2000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows to learn from, other rows to begin with, and the true dictionary."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.nn.functional.normalize(torch.randn(200, 100, generator=generator), dim=1)
    supports = torch.rand(n_rows, 200, generator=generator).topk(5, dim=1).indices
    values = torch.nn.functional.normalize(torch.randn(n_rows, 5, generator=generator), dim=1)
    z = torch.zeros(n_rows, 200).scatter(1, supports, values)
    rows = z @ truth + 0.1 * torch.randn(n_rows, 100, generator=generator)
    return rows[:1000], rows[1000:], truth


def learned(start: str, n_atoms: int, share: float, seed: int, max_epochs: int) -> tuple:
    """Return the recovery error of one run, and its seconds."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    X, others, truth = data(seed)
    init = (torch.cat([truth, others]) if start == "truth" else others)[:n_atoms]
    model = MaskedDictionaryLearning(
        n_atoms,
        n_nonzero=5,
        observed_share=share,
        init=init,
        max_epochs=max_epochs,
        random_state=seed,
        device="cpu",
    ).fit(X)
    error = recovery_error(torch.from_numpy(model.components_), truth)
    return error, time.perf_counter() - began


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return a row per start, number of atoms and kind of learning; one core a run, always CPU."""
    seeds, epochs = range(1 if smoke else N_SEEDS), 2 if smoke else 500
    cases = [
        (start, n_atoms, share, figure)
        for (start, n_atoms), figures in PAPER.items()
        for share, figure in zip((1.0, 0.9), figures, strict=True)
    ]
    # Fresh processes: the parent's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        started = {
            (case, seed): pool.submit(learned, *case[:3], seed, epochs)
            for case in sorted(cases, key=lambda case: -case[1])  # the long ones first
            for seed in seeds
        }
        rows = []
        for case in cases:
            errors, seconds = zip(*(started[case, seed].result() for seed in seeds), strict=True)
            start, n_atoms, share, figure = case
            mean = sum(errors) / len(errors)
            row = {"start": start, "atoms": n_atoms, "observed": share, "error": mean}
            row |= {"lowest": min(errors), "highest": max(errors), "paper": figure}
            row["seconds per run"] = sum(seconds) / len(seconds)
            if not smoke:
                row["status"] = "ok" if abs(mean - figure) <= WITHIN else "off"
            rows.append(row)
            print(row, flush=True)
    return rows
