"""The benchmark command: order of its output, its refusals, its pairs of runs, its memory probe."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

HERE = Path(__file__).resolve().parent


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))
    import measure

    return measure


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))
    import run

    return run


def test_facts_come_first_and_the_table_last(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    command = [sys.executable, str(HERE / "run.py"), "select", "--smoke", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[0].startswith("cpu:")
    assert lines[-1].startswith("N=256 F=4096 k=32")
    content = json.loads(file.read_text())
    assert content["machine"]["matmul_2048_gflops"] > 0
    assert {row["name"] for row in content["results"]["select"]} == {
        "torch.topk",
        "sparsecode",
        "one read",
    }


def test_an_unknown_name_is_refused(run: ModuleType, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        run.main(["no_such_benchmark"])
    assert "NAME must be one of" in capsys.readouterr().err


def test_every_run_follows_a_run_of_the_baseline(measure: ModuleType) -> None:
    order = []
    work = {name: lambda n=name: order.append(n) for name in ("base", "a", "b")}
    timings = measure.interleave(work, baseline="base", rounds=2, warmup=0)
    assert order == ["base", "a", "base", "b"] * 2
    assert [len(timings[n].times) for n in work] == [4, 2, 2]
    assert timings["base"].ratios == ()
    assert len(timings["a"].ratios) == 2


def test_a_row_holds_median_and_percentiles(measure: ModuleType) -> None:
    row = measure.Timing((1.0, 2.0, 9.0), (0.5, 1.0, 4.0)).row()
    assert row["ms"] == 2.0
    assert row["ratio"] == 1.0
    assert row["p10"] == pytest.approx(1.2)
    assert row["ratio_p90"] == pytest.approx(3.4)
    assert row["rounds"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_the_probe_sees_memory_that_is_freed_before_it_is_read(measure: ModuleType) -> None:
    before = measure.resident_bytes()

    def work() -> None:
        torch.ones(16 << 20)

    extra = measure.peak_resident_bytes(work) - before
    assert (60 << 20) < extra < (80 << 20)


def test_missing_cells_stay_aligned(run: ModuleType) -> None:
    text = run.table([{"name": "a", "ms": 1234.5}, {"name": "bb", "status": "WRONG"}])
    assert text.splitlines() == ["name  ms    status", "a     1234  -", "bb    -     WRONG"]
