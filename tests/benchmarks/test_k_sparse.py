"""The protocol of bench_k_sparse on fewer images: what it measures can be relied on."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).resolve().parent


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))
    import bench_k_sparse

    return bench_k_sparse


def test_a_softmax_layer_is_measured(bench: ModuleType) -> None:
    """Two classes that a line separates give little error, labels without a pattern chance."""
    X = torch.randn(600, 3)
    y = (X[:, 0] > 0).long()
    clear = X + 4.0 * torch.stack([2.0 * y - 1, torch.zeros(600), torch.zeros(600)], dim=1)
    assert bench.classification_error((clear[:400], y[:400]), (clear[400:], y[400:])) < 10
    chance = torch.randint(0, 2, (600,))
    assert bench.classification_error((X[:400], chance[:400]), (X[400:], chance[400:])) > 30


def test_statuses_follow_the_protocol(bench: ModuleType) -> None:
    rows = [
        {"model": "raw", "k": 784, "error alpha=1": 9.0},
        {"model": "dense", "k": bench.N_UNITS, "error alpha=1": 10.0},
        {"model": "unscheduled", "k": 10, "dead": 0.8},
        {"model": "scheduled", "k": 10, "dead": 0.39, "error alpha=1": 7.0, "error alpha=2": 6.0},
        {"model": "scheduled", "k": 25, "dead": 0.1, "error alpha=1": 5.9, "error alpha=2": 5.0},
        {"model": "scheduled", "k": 40, "dead": 0.1, "error alpha=1": 6.1, "error alpha=2": 5.0},
        {"model": "scheduled", "k": 70, "dead": 0.1, "error alpha=1": 4.0, "error alpha=2": 5.0},
    ]
    statuses = [row.get("status") for row in bench.judged(rows)]
    assert statuses == [None, None, "ok", "ok", "ok", "off", "ok"]
    rows[2]["dead"] = 0.7
    assert bench.judged(rows)[2]["status"] == "off"


def test_codes_of_few_units_classify_digits_better_than_pixels(
    bench: ModuleType, sparsecode_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSECODE_DATA", str(sparsecode_data))
    monkeypatch.setattr(bench, "BATCH", 64)
    data = bench.images(smoke=False)
    if data is None:
        pytest.skip(f"{sparsecode_data} holds no mnist_17k.npz")
    X, y, Z, w = (part[:2000] for part in data)
    model = bench.train(X, 25, 100, n_units=500, n_epochs=10, seed=0)
    codes, test_codes = bench.codes_of(model, X, 25), bench.codes_of(model, Z, 25)
    of_codes = bench.classification_error((codes, y), (test_codes, w))
    of_pixels = bench.classification_error((X, y), (Z, w))
    assert of_codes < 0.8 * of_pixels
