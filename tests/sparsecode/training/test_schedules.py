import pytest

from sparsecode.training import default_learning_rate, learning_rate_factor

RUN = {"n_latents": 4096, "n_features": 384, "n_steps": 1000, "batch_size": 2048}


def factors(n_steps, warmup_share, decay_share):
    shares = {"warmup_share": warmup_share, "decay_share": decay_share}
    return [learning_rate_factor(step, n_steps=n_steps, **shares) for step in range(n_steps)]


def test_the_factor_rises_stays_and_falls_to_zero():
    found = factors(100, 0.1, 0.2)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(found[9:81]) == {1.0}
    assert found[80:] == pytest.approx([1 - step / 20 for step in range(20)])


@pytest.mark.parametrize("n_steps", [1, 2, 3, 17])
@pytest.mark.parametrize(("warmup_share", "decay_share"), [(0, 0), (0.05, 0.5), (1, 0), (0, 1)])
def test_no_step_is_lost(n_steps, warmup_share, decay_share):
    assert all(0 < factor <= 1 for factor in factors(n_steps, warmup_share, decay_share))


@pytest.mark.parametrize("name", RUN)
def test_the_default_rate_is_a_rate_for_any_run(name):
    for value in (1, 10**3, 10**7):
        assert 1e-5 < default_learning_rate(**{**RUN, name: value}) < 0.1
    with pytest.raises(ValueError, match=f"`{name}` must be an int"):
        default_learning_rate(**{**RUN, name: 0})
