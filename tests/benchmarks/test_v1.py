"""The protocol of bench_v1 on fewer patches and one seed."""

from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(HERE))
    import bench_v1

    return bench_v1


def test_l0_is_read_at_the_error_asked_for(bench: ModuleType) -> None:
    points = [{"error": 0.01, "l0": 16.0}, {"error": 0.04, "l0": 4.0}]
    assert bench.at_error(points, 0.02) == pytest.approx(8.0)


def test_penalties_beyond_l1_need_fewer_units(bench: ModuleType) -> None:
    pytest.importorskip("PIL", reason="the patches are of scikit-learn's sample images")
    *_, half, cel0 = bench.run(device="cpu", smoke=True)
    for row in (half, cel0):
        assert row["seed"] == "all"
        assert row["highest"] <= bench.WANTED
    assert cel0["share_of_soft"] < half["share_of_soft"]
