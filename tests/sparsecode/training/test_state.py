import copy

import pytest
import torch
from torch import nn

from sparsecode import SparseCodes
from sparsecode.optim import ProjectedAdam, RowAdam
from sparsecode.training import DeadLatents, TrainConfig
from sparsecode.training.state import (
    Clock,
    RunningMeans,
    TrainState,
    make_optimizer,
    set_learning_rate,
)


class Pair(nn.Module):
    """A transposed dictionary, a bias and a buffer, as autoencoders have them."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(5, 3).t())
        self.bias = nn.Parameter(torch.zeros(5))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def groups(self) -> list[dict]:
        rows = {"params": [self.rows], "latent_dim": 1, "unit_norm": True, "lr_scale": 1.0}
        return [rows, {"params": [self.bias], "lr_scale": 100.0}]


def new_state(optimizer: str = "row_adam") -> TrainState:
    torch.manual_seed(1)
    module, config = Pair(), TrainConfig(optimizer=optimizer)
    dead = DeadLatents(5, dead_after=3)
    return TrainState(
        module, make_optimizer(module.groups(), config), dead, RunningMeans(), Clock()
    )


def step(state: TrainState, n: int) -> None:
    """Take steps that use the random state, as a loop would."""
    for _ in range(n):
        set_learning_rate(state.optimizer, 1e-2)
        x = torch.randn(4, 3)
        loss = (x @ state.module.rows + state.module.bias).square().mean()
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.module.seen += 1
        state.dead.see(SparseCodes(torch.ones(4, 1), torch.randint(0, 5, (4, 1)), 5))
        state.dead.advance(4)
        state.means.add({"loss": loss}, 4)
        state.step += 1
        state.rows += 4


@pytest.mark.parametrize("optimizer", ["row_adam", "adam", "muon"])
def test_a_restored_state_goes_on_bit_for_bit(optimizer):
    state = new_state(optimizer)
    step(state, 3)
    tensors = {name: t.clone() for name, t in state.tensors().items()}
    numbers = copy.deepcopy(state.numbers())
    step(state, 4)

    other = new_state(optimizer)
    torch.manual_seed(99)
    other.restore(tensors, numbers)
    step(other, 4)
    expected = state.tensors()
    assert other.tensors().keys() == expected.keys()
    for name, tensor in other.tensors().items():
        assert torch.equal(tensor, expected[name]), name
    assert other.means.read() == state.means.read()
    assert (other.step, other.rows, other.dead.rows_seen) == (7, 28, 28)


def test_time_adds_up_over_the_parts_of_a_run():
    state = new_state()
    state.restore(state.tensors(), state.numbers() | {"seconds": 1000.0})
    assert 1000.0 <= state.numbers()["seconds"] < 1010.0
    lap = state.clock.lap(500)
    assert lap["wall_time"] >= 1000.0
    assert lap["tokens_per_second"] > 0


def test_means_weigh_rows_and_start_again_when_read():
    means = RunningMeans()
    assert means.read() == {}
    means.add({"loss": torch.tensor(1.0), "new": torch.tensor(8.0)}, 3)
    means.add({"loss": torch.tensor(5.0)}, 1)
    assert means.read() == {"loss": 2.0, "new": 6.0}
    assert means.read() == {}


def test_groups_get_their_own_scale():
    optimizer = make_optimizer(Pair().groups(), TrainConfig(eps=1e-6))
    assert isinstance(optimizer, RowAdam)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 50.0]
    assert [group["eps"] for group in optimizer.param_groups] == [1e-6, 1e-8]
    assert isinstance(make_optimizer(Pair().groups(), TrainConfig(optimizer="adam")), ProjectedAdam)


def test_not_finite_weights_are_seen():
    state = new_state()
    assert state.is_finite()
    with torch.no_grad():
        state.module.bias[2] = torch.nan
    assert not state.is_finite()
