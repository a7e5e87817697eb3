import pytest

from retrieval.schedules import Steered, ramp


def test_ramps_by_the_formula() -> None:
    for step in range(11):
        p = step / 10
        assert ramp(p, share=0.4) == pytest.approx(min(1.0, p / 0.4) ** 2)
        assert ramp(p, share=0.4, kind="linear") == pytest.approx(min(1.0, p / 0.4))
        assert ramp(p, kind="constant") == 1.0
        assert ramp(p, share=0.0) == 1.0
    with pytest.raises(ValueError, match="`kind` must be one of 'quadratic', 'linear', 'constant'"):
        ramp(0.5, kind="cubic")


def test_a_steered_weight_settles_where_the_target_is_met() -> None:
    weight = Steered(1.0, target=10.0)
    for step in range(1000):
        weight.update(40.0 / weight.value**0.5, progress=step / 1000)
    assert weight.value == pytest.approx(16.0, rel=1e-2)
    assert weight.mean_active == pytest.approx(10.0, rel=1e-2)


def test_what_is_wanted_goes_from_the_first_batch_to_the_target() -> None:
    weight = Steered(1.0, target=4.0)
    weight.update(64.0, progress=0.0)
    assert [weight.wanted(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([64, 16, 4, 4])
    assert weight.value == pytest.approx(1.0)


def test_a_steered_weight_stays_within_bounds() -> None:
    weight = Steered(2.0, target=1.0)
    for _ in range(1000):
        weight.update(0.0, progress=1.0)
    assert weight.value == pytest.approx(2e-4)
    for _ in range(1000):
        weight.update(1e9, progress=1.0)
    assert weight.value == pytest.approx(2e4)
    with pytest.raises(ValueError, match="`target` must be a finite number"):
        Steered(1.0, target=0.0)
