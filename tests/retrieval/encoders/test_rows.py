from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retrieval import FlopsEncoder
from retrieval.encoders.rows import SideBySide, finite_rows, label_column, sampled, trained
from sparsecode.training import AbstractTask, StepLosses, TrainConfig
from sparsecode.training.array_rows import ArrayRows


def test_rows_stay_together_and_an_epoch_holds_each_once(tmp_path: Path) -> None:
    left = np.arange(14, dtype=np.float64).reshape(7, 2)
    np.save(tmp_path / "right.npy", (100 + np.arange(7)).astype(np.float16)[:, None])
    right = np.load(tmp_path / "right.npy", mmap_mode="r")
    source = SideBySide(left, right, torch.arange(7).reshape(7, 1))
    assert (source.n_rows, source.n_features) == (7, 4)
    stream = source.batches(3, seed=1, start_row=0)
    rows = torch.cat([next(stream) for _ in range(7)])
    assert rows.dtype == torch.float32
    assert torch.equal(rows[:, 2] - 100, rows[:, 3])
    assert torch.equal(rows[:, 0], 2 * rows[:, 3])
    for epoch in rows[:21].split(7):
        assert epoch[:, 3].sort().values.tolist() == list(range(7))
    assert torch.equal(next(source.batches(2, seed=1, start_row=3)), rows[3:5])
    assert torch.equal(source.rows(2, 4)[:, 3], torch.tensor([2.0, 3.0]))
    with pytest.raises(ValueError, match="equally many rows; got 7, 2"):
        SideBySide(left, left[:2])


def test_labels_are_numbered() -> None:
    assert label_column(np.array(["b", "a", "b"]), 3).tolist() == [[1.0], [0.0], [1.0]]
    with pytest.raises(ValueError, match="`y` must hold a label for each row of `X`, n_samples=4"):
        label_column([1, 2, 3], 4)


def test_a_bad_row_is_named_by_its_number_in_the_whole() -> None:
    rows = np.zeros((50, 2))
    rows[31, 1] = np.nan
    assert finite_rows(ArrayRows(rows), 0, 31).shape == (31, 2)
    with pytest.raises(ValueError, match=r"`X` must be finite; .* first in row 31\."):
        finite_rows(ArrayRows(rows), 20, 40)


def test_whole_numbers_on_disk_are_data_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (40, 6)).astype(np.int8)
    np.save(tmp_path / "x.npy", x)
    encoder = FlopsEncoder(12, max_steps=2, device="cpu").fit(tmp_path / "x.npy")
    assert (encoder.transform(tmp_path / "x.npy") != encoder.transform(x)).nnz == 0


def test_a_stopped_fit_says_what_is_left() -> None:
    class Stopped(AbstractTask):
        def __init__(self) -> None:
            self.module, self.n_latents, self.constants = nn.Linear(2, 2), 2, {}

        def start(self, sample: Tensor) -> None:
            raise KeyboardInterrupt("nothing was saved since `out_dir` is None")

        def parameter_groups(self) -> list:
            return []

        def set_progress(self, progress: float) -> None:
            pass

        def scheduled(self) -> dict:
            return {}

        def losses(self, batch: Tensor, dead_latents: Tensor | None) -> StepLosses:
            raise AssertionError

        def evaluate(self) -> None:
            return None

    config = TrainConfig(n_steps=2, batch_size=2, progress=False)
    with pytest.raises(KeyboardInterrupt, match="the encoder is as it was before the call"):
        trained(Stopped(), SideBySide(np.zeros((4, 2))), config)


def test_a_sample_is_from_all_over() -> None:
    rows = sampled(SideBySide(np.arange(1000.0)[:, None]), 50, seed=0)
    assert len(rows) == 50
    assert 300 < float(rows.mean()) < 700
    assert len(sampled(SideBySide(np.zeros((3, 1))), 50, seed=0)) == 3
