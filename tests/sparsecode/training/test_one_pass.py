"""Passes over rows in order; the estimators that take them test how they go on."""

import pytest
import torch

import sae
from sparsecode.training import TrainConfig, default_learning_rate, learning_rate_factor, one_pass
from sparsecode.training.array_rows import ArrayRows
from sparsecode.training.one_pass import RATE_AFTER_THE_END, _learning_rate, _parts


def test_all_rows_are_met_once_in_parts_of_nearly_equal_size() -> None:
    rows = torch.arange(23.0)[:, None]
    parts = list(_parts(ArrayRows(rows), 8))
    assert [len(part) for part in parts] == [7, 8, 8]
    assert torch.equal(torch.cat(parts), rows)


def test_the_rate_follows_the_schedule_and_stays_small_after_its_end() -> None:
    config = TrainConfig(n_steps=10, batch_size=4, lr=0.5)
    shares = {"warmup_share": config.warmup_share, "decay_share": config.decay_share}
    for step in (0, 3, 9):
        expected = 0.5 * learning_rate_factor(step, n_steps=10, **shares)
        assert _learning_rate(config, step) == pytest.approx(expected)
    assert _learning_rate(config, 10) == 0.5 * RATE_AFTER_THE_END


def test_rows_that_are_not_finite_are_refused() -> None:
    from sae.trainer import AutoencoderTask

    lr = default_learning_rate(n_latents=8, n_features=4, n_steps=2, batch_size=4)
    config = TrainConfig(n_steps=2, batch_size=4, lr=lr, progress=False)
    task = AutoencoderTask(sae.TopK(n_features=4, n_latents=8, k=2), config, None)
    rows = torch.randn(8, 4)
    assert one_pass(task, ArrayRows(rows), config, batch_size=4).step == 2
    rows[6, 1] = torch.nan
    with pytest.raises(ValueError, match="must be finite"):
        one_pass(task, ArrayRows(rows), config, batch_size=4)
