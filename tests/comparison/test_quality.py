"""The quality comparison itself: its measure is right, and our defaults hold on a small problem."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from sparsecode.datasets import make_sparse_data


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return quality.py, imported as the command sees itself."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import quality

    yield quality
    del sys.modules["quality"]


def test_fvu_is_one_minus_the_variance_weighted_r2(quality: ModuleType) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(3000, 7)) * np.arange(1, 8) + 50).astype(np.float32)
    noise = torch.from_numpy(rng.normal(size=(3000, 7)).astype(np.float32))

    def reconstruct(x: torch.Tensor) -> torch.Tensor:
        start = np.flatnonzero((rows == x[0].numpy()).all(1))[0]
        return x + noise[start : start + len(x)]

    expected = 1 - r2_score(rows, rows + noise.numpy(), multioutput="variance_weighted")
    assert quality.heldout_fvu(reconstruct, rows) == pytest.approx(expected, rel=1e-5)


def test_the_mean_explains_nothing_and_the_rows_everything(quality: ModuleType) -> None:
    rows = np.random.default_rng(0).normal(3.0, 1.0, (500, 4)).astype(np.float16)
    mean = torch.from_numpy(rows.astype(np.float64).mean(0))
    assert quality.heldout_fvu(lambda x: mean.expand(len(x), 4), rows) == pytest.approx(1.0)
    assert quality.heldout_fvu(lambda x: x, rows) == 0.0


def test_the_peers_schedule_ends_at_zero(quality: ModuleType) -> None:
    factors = [quality._lr_factor("linear", 200)(step) for step in range(200)]
    assert factors[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert factors[-1] == pytest.approx(1 / 190)
    assert np.argmax(factors) in (9, 10)


def test_our_defaults_reach_the_peers_best_run(sparsify: ModuleType, quality: ModuleType) -> None:
    rows, _, _ = make_sparse_data(9000, 32, 96, k=6, noise=0.05)
    results = quality.compare(
        rows, n_latents=128, k=6, n_steps=300, batch_size=256, lrs=[1e-3, 3e-3, 1e-2],
        report=lambda row: None,
    )  # fmt: skip
    best = min(row["fvu"] for row in results if row["model"] == "sparsify")
    ours = [row["fvu"] for row in results if row["model"] == "ours"]
    assert len(results) == 7
    assert ours[0] <= 1.05 * best, results
