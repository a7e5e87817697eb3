import dataclasses
import json
from pathlib import Path

import pytest

from sparsecode.training import TrainConfig
from sparsecode.training.config import FREE_ON_RESUME


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, r"`batch_size` must be an int in \[1, inf\); got 0"),
        ({"n_steps": 10.0}, TypeError, "`n_steps` must be an int"),
        ({"lr": 0}, ValueError, r"`lr` must be a finite number in \(0, inf\); got 0"),
        ({"lr": float("nan")}, ValueError, "`lr` must be a finite number"),
        ({"eps": -1.0}, ValueError, "`eps` must be"),
        ({"betas": (0.9,)}, ValueError, r"`betas` must be two numbers in \[0, 1\)"),
        ({"betas": (0.9, 1.0)}, ValueError, r"`betas` must be two numbers in \[0, 1\)"),
        ({"betas": 0.9}, ValueError, r"`betas` must be two numbers in \[0, 1\)"),
        ({"warmup_share": 0.6, "decay_share": 0.6}, ValueError, "add up to at most 1"),
        ({"batch_size": 4, "accumulate": 5}, ValueError, r"`accumulate` must be an int in \[1, b"),
        ({"seed": -1}, ValueError, "`seed` must be an int in"),
        ({"k_start": True}, TypeError, "`k_start` must be an int"),
        ({"dead_after_tokens": 0}, ValueError, "`dead_after_tokens` must be an int"),
        (
            {"heldout_fraction": 1.0},
            ValueError,
            r"`heldout_fraction` must be a finite number in \[0, 0.9",
        ),
        ({"optimizer": "sgd"}, ValueError, '`optimizer` must be one of .*"?row_adam'),
        ({"precision": "fp16"}, ValueError, "`precision` must be one of 'float32', 'bf16'"),
        ({"normalize": "unit"}, ValueError, "`normalize` must be one of 'none', 'mean_square', "),
        ({"data_seed": -1}, ValueError, "`data_seed` must be an int"),
        ({"loggers": ("tensorbord",)}, ValueError, "Did you mean 'tensorboard'"),
        ({"loggers": "wandb"}, ValueError, "`out_dir` must be given for loggers"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        TrainConfig(**settings)


def test_settings_are_named():
    with pytest.raises(TypeError, match="positional"):
        TrainConfig(2048)


def test_a_configuration_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().batch_size = 3


def test_numpy_numbers_and_strings_become_plain():
    np = pytest.importorskip("numpy")
    config = TrainConfig(
        batch_size=np.int64(8), lr=np.float32(0.5), betas=[0, 0.5], out_dir="run", loggers="wandb"
    )
    assert type(config.batch_size) is int
    assert type(config.lr) is float
    assert config.betas == (0.0, 0.5)
    assert config.out_dir == Path("run")
    assert config.loggers == ("wandb",)
    assert TrainConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_latents_die_after_a_share_of_short_runs_and_after_10_million_tokens_of_long_ones():
    short = TrainConfig(n_steps=1000, batch_size=2048)
    assert 0 < short.tokens_to_death < 1000 * 2048
    assert TrainConfig(n_steps=10**6, batch_size=2048).tokens_to_death == 10_000_000
    assert TrainConfig(n_steps=1, batch_size=1).tokens_to_death == 1
    assert TrainConfig(dead_after_tokens=7).tokens_to_death == 7


def test_what_is_due_when():
    config = TrainConfig(n_steps=25)
    assert [step for step in range(1, 26) if config.is_due(step, 10)] == [10, 20, 25]
    assert [step for step in range(1, 26) if config.is_due(step, None)] == [25]
    longer = TrainConfig(n_steps=2005)
    assert [step for step in range(1, 2006) if longer.is_due(step, None)][:3] == [200, 400, 600]


def test_what_may_change_on_resume_are_fields():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert names > FREE_ON_RESUME
