"""The quick form of bench_loss_recovered: it runs, goes on where it was, and judges rightly."""

from pathlib import Path
from types import ModuleType

import pytest

from sparsecode import io

HERE = Path(__file__).resolve().parent


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))
    import bench_loss_recovered

    return bench_loss_recovered


def row(n_latents: int, k: int, ce: float, kl: float) -> dict:
    share = (9.0 - ce) / 4.0
    return {
        "n_latents": n_latents, "k": k, "ce_original": 5.0, "ce_reconstruction": ce,
        "ce_zero": 9.0, "kl": kl, "loss_recovered": share, "loss_recovered_mean": share - 0.1,
    }  # fmt: skip


def test_statuses_compare_with_the_next_smaller_k_of_the_same_width(bench: ModuleType) -> None:
    rows = [row(64, 8, 6.0, 1.0), row(64, 16, 5.5, 0.5), row(256, 8, 5.9, 1.2),
            row(256, 16, 5.8, 1.3), row(256, 32, 5.85, 0.9), row(64, 32, 4.9, 0.1)]  # fmt: skip
    statuses = {(r["n_latents"], r["k"]): r["status"] for r in bench.judged(rows)}
    expected = {(64, 8): "ok", (64, 16): "ok", (256, 8): "ok"}
    expected |= {(256, 16): "off", (256, 32): "off", (64, 32): "off"}
    assert statuses == expected


def test_more_latents_a_token_recover_more_of_the_loss(
    bench: ModuleType, sparsecode_data: Path, tmp_path: Path
) -> None:
    if not (sparsecode_data.parent / "models" / "tiny-gpt2").is_dir():
        pytest.skip("there is no models/tiny-gpt2 beside SPARSECODE_DATA")
    rows = bench.judged(bench.measured(sparsecode_data, bench.SMOKE, tmp_path))
    assert [(r["n_latents"], r["k"]) for r in rows] == [(64, 2), (64, 16), (256, 2), (256, 16)]
    assert {r["status"] for r in rows} == {"ok"}, rows
    assert all(r["ce_mean"] < r["ce_zero"] and r["kl"] > 0 for r in rows)

    file = tmp_path / "runs" / "topk-64-k2-seed0" / "loss.json"
    found = io.read_json(file)
    io.write_json(file, {**found, "kl": 7.0})
    again = bench.measured(sparsecode_data, bench.SMOKE, tmp_path)
    assert again[0]["kl"] == 7.0  # what is there is not measured again


def test_texts_are_apart(bench: ModuleType, sparsecode_data: Path) -> None:
    train, unseen = bench.paragraphs(sparsecode_data, bench.Size())
    assert len(train) > 1000
    assert not set(train) & set(unseen)
    assert sum(map(len, unseen)) >= bench.Size().characters_read
