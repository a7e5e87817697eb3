"""The loop trains anything that is a task: here a dictionary without an encoder of its own."""

import itertools
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from sparsecode import decode_mse, encode_topk
from sparsecode.datasets import make_sparse_data
from sparsecode.metrics import fvu
from sparsecode.training import AbstractTask, RowSource, StepLosses, TrainConfig, train
from sparsecode.training.array_rows import ArrayRows


class Dictionary(nn.Module):
    """Atoms; the code of a row is its k largest correlations."""

    def __init__(self, n_latents: int, n_features: int, k: int) -> None:
        super().__init__()
        atoms = torch.randn(n_latents, n_features, generator=torch.Generator().manual_seed(1))
        self.atoms = nn.Parameter(atoms / atoms.norm(dim=1, keepdim=True))
        self.k = k

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = encode_topk(x, self.atoms.t(), None, self.k)
        return codes, *decode_mse(codes, self.atoms, x)


class DictionaryTask(AbstractTask):
    """Learns the atoms and nothing else; has no schedule and no held-out rows."""

    def __init__(self, module: Dictionary) -> None:
        self.module, self.n_latents, self.constants = module, len(module.atoms), {}
        self.progress: list[float] = []

    def start(self, sample: Tensor) -> None:
        self.constants = {"power": float(sample.square().sum(1).mean())}

    def parameter_groups(self) -> list[dict]:
        return [{"params": [self.module.atoms], "latent_dim": 0, "unit_norm": True}]

    def set_progress(self, progress: float) -> None:
        self.progress.append(progress)

    def scheduled(self) -> dict[str, float]:
        return {"progress": self.progress[-1]}

    def losses(self, batch: Tensor, dead_latents: Tensor | None) -> StepLosses:
        codes, loss, _ = self.module(batch)
        return StepLosses(loss / self.constants["power"], {}, codes.detach())

    def evaluate(self) -> None:
        return None


def test_a_task_of_another_kind_is_learned():
    x, atoms, _ = make_sparse_data(4000, 16, 24, 2)
    module = Dictionary(24, 16, 2)
    task = DictionaryTask(module)
    config = TrainConfig(batch_size=200, n_steps=150, lr=0.02, progress=False)
    before = fvu(x, module(x)[2].detach())
    state, metrics = train(task, ArrayRows(x), config)
    assert fvu(x, module(x)[2].detach()) < 0.5 * before
    best = (module.atoms.detach() @ atoms.t()).abs().max(0).values
    assert float(best.median()) > 0.95
    torch.testing.assert_close(module.atoms.norm(dim=1), torch.ones(24))
    assert (state.step, state.rows) == (150, 150 * 200)
    assert task.progress == pytest.approx([step / 150 for step in range(150)])
    assert [row["step"] for row in metrics.history] == list(range(10, 151, 10))
    assert metrics.history[-1]["progress"] == task.progress[-1]
    assert module.atoms.grad is None
    module(x)[1].backward()
    assert module.atoms.grad is not None  # the optimizer has let go of it


def test_a_source_needs_no_base_class():
    class Constant:
        n_rows, n_features = 5, 3

        def rows(self, start: int, stop: int) -> Tensor:
            return torch.ones(stop - start, 3)

        def batches(self, batch_size: int, *, seed: int, start_row: int):
            for _ in itertools.count():
                yield torch.ones(batch_size, 3)

    source: RowSource = Constant()
    task = DictionaryTask(Dictionary(4, 3, 1))
    state, _ = train(task, source, TrainConfig(batch_size=7, n_steps=3, progress=False))
    assert state.rows == 21


def test_the_loop_knows_nothing_of_autoencoders():
    code = "import sys, sparsecode.training; assert 'sae' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
