"""Everything that training changes, in one object: a checkpoint is this and nothing else."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsecode.optim import MuonAdam, ProjectedAdam, RowAdam
from sparsecode.training.config import TrainConfig
from sparsecode.training.dead_latents import DeadLatents

# Tensor names inside a checkpoint start with the part of the state that they belong to.
MODEL, OPTIMIZER, MEANS = "model.", "optimizer.", "means."


class RunningMeans:
    """Means of scalars over the rows since the last reading; adding never waits for a GPU."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.n_rows = 0

    @torch.no_grad()
    def add(self, values: dict[str, Tensor], n_rows: int) -> None:
        """Add means over `n_rows` rows."""
        for name, value in values.items():
            weighted = value.detach().double() * n_rows
            known = self.sums.get(name)
            self.sums[name] = weighted if known is None else known + weighted
        self.n_rows += n_rows

    def read(self) -> dict[str, float]:
        """Return the means, in one transfer, and start again; no rows give no means."""
        means = {}
        if self.n_rows:
            names = sorted(self.sums)  # a checkpoint does not keep the order in which they came
            values = (torch.stack([self.sums[name] for name in names]) / self.n_rows).tolist()
            means = dict(zip(names, values, strict=True))
        self.sums, self.n_rows = {}, 0
        return means


class Clock:
    """Time spent on a run, over all parts of an interrupted one."""

    def __init__(self) -> None:
        self._before = 0.0
        self._start = self._lap_start = time.perf_counter()

    def total(self) -> float:
        """Return the seconds spent so far."""
        return self._before + time.perf_counter() - self._start

    def restore(self, seconds: float) -> None:
        """Go on from the time spent by the parts of the run before."""
        self._before = seconds

    def lap(self, n_rows: int) -> dict[str, float]:
        """Return the speed over the rows since the last lap, and the time spent."""
        now = time.perf_counter()
        speed = n_rows / max(now - self._lap_start, 1e-9)
        self._lap_start = now
        return {"tokens_per_second": round(speed, 1), "wall_time": round(self.total(), 3)}


@dataclass
class TrainState:
    """What a training run has come to.

    Parameters
    ----------
    module : nn.Module
        What is trained.
    optimizer : RowAdam, ProjectedAdam or MuonAdam
    dead : DeadLatents
    means : RunningMeans
        Of the metrics since they were last logged.
    clock : Clock
    step : int, default=0
        Steps done.
    rows : int, default=0
        Rows of the endless stream consumed: where the source goes on.
    """

    module: nn.Module
    optimizer: RowAdam | ProjectedAdam | MuonAdam
    dead: DeadLatents
    means: RunningMeans
    clock: Clock
    step: int = 0
    rows: int = 0

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.module.parameters()).device

    def close(self) -> None:
        """Let autograd fill ``.grad`` again."""
        self.optimizer.release()

    def is_finite(self) -> bool:
        """Whether all parameters are finite; waits for the device."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.module.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors under their names in a checkpoint."""
        found = {f"{MODEL}{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, entries in self.optimizer.state_dict()["state"].items():
            found |= {f"{OPTIMIZER}{index}.{name}": tensor for name, tensor in entries.items()}
        found |= {f"{MEANS}{name}": tensor for name, tensor in self.means.sums.items()}
        found["dead.since_fired"] = self.dead.since_fired
        found["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["random.cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def numbers(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON."""
        return {
            "step": self.step,
            "rows": self.rows,
            "seconds": self.clock.total(),
            "means_rows": self.means.n_rows,
            "rows_seen": self.dead.rows_seen,
        }

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take over what `tensors` and `numbers` returned, bit for bit.

        Parameters
        ----------
        tensors : dict of str to Tensor
            Of the same model and optimizer.
        numbers : dict
        """
        self.module.load_state_dict(_part(tensors, MODEL))
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, OPTIMIZER).items():
            index, _, key = name.partition(".")
            entries.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": entries})
        self.means.sums = {name: t.to(self.device) for name, t in _part(tensors, MEANS).items()}
        self.means.n_rows = numbers["means_rows"]
        self.dead.since_fired.copy_(tensors["dead.since_fired"])
        self.dead.rows_seen = numbers["rows_seen"]
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.clock.restore(numbers["seconds"])
        self.step, self.rows = numbers["step"], numbers["rows"]


def make_optimizer(
    groups: list[dict[str, Any]], config: TrainConfig
) -> RowAdam | ProjectedAdam | MuonAdam:
    """Return the optimizer for parameter groups whose ``lr_scale`` says on which scale they live.

    ``eps`` is divided by that scale: gradients of parameters on the scale of the data shrink as
    the data grows, and a step must not depend on the unit of the data.
    """
    for group in groups:
        group["eps"] = config.eps / group.setdefault("lr_scale", 1.0)
    optimizer = {"adam": ProjectedAdam, "muon": MuonAdam}.get(config.optimizer, RowAdam)
    return optimizer(groups, lr=0.0, betas=config.betas, eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group, on the scale of its parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
