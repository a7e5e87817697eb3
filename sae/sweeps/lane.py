"""Lane: one run of a sweep, in a random state of its own."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import torch
from torch import Tensor

from sae.trainer import Trainer
from sparsecode import io
from sparsecode.training import TrainingRun
from sparsecode.training.checkpoint import EVALUATION, MODEL


class Lane:
    """A run that takes its steps between those of others and notices none of them.

    Parameters
    ----------
    trainer : Trainer
    resume, overwrite : bool
        As of `Trainer.fit`.

    Attributes
    ----------
    run : TrainingRun
    failure : str or None
        Why the run was given up.
    """

    def __init__(self, trainer: Trainer, resume: bool, overwrite: bool) -> None:
        self.trainer, self.failure = trainer, None
        self._random = _RandomState(trainer.device)
        self._outer, self._inner = ExitStack(), ExitStack()
        self._outer.enter_context(closing(self._inner))
        try:
            self._folder = self._outer.enter_context(
                trainer.own_folder(resume, overwrite=overwrite)
            )
            self._task = self._inner.enter_context(trainer.own_task())
            with self._random.active():
                self.run = self._inner.enter_context(
                    closing(
                        TrainingRun(self._task, trainer.rows, trainer.config, folder=self._folder)
                    )
                )
        except BaseException:
            self.close()
            raise

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.run.state.step

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken, or no more will be."""
        return self.run.is_done or self.failure is not None

    def take(self, batch: Tensor) -> None:
        """Take one step.

        Parameters
        ----------
        batch : Tensor of shape (batch_size, D)
        """
        try:
            with self._random.active():
                self.run.take(batch)
        except FloatingPointError as error:
            self.failure = str(error)

    def save(self) -> None:
        """Write a checkpoint."""
        with self._random.active():
            try:
                self.run.save()
            except FloatingPointError as error:
                self.failure = str(error)

    def finish(self) -> dict[str, Any] | str:
        """Evaluate and write the results; return the metrics, or why there are none."""
        history = self.run.metrics.history
        self._inner.close()
        if self.failure is not None:
            return self.failure
        folder = self._folder
        assert folder is not None
        if (folder.path / MODEL).is_dir() and (folder.path / EVALUATION).is_file():
            return io.read_json(folder.path / EVALUATION)  # finished before the sweep was resumed
        found = self.trainer.result(self._task, history, folder).evaluation
        return history[-1] if found is None else found

    def close(self) -> None:
        """Let go of everything; what was not saved is lost."""
        self._inner.close()
        self._outer.close()


class _RandomState:
    """Torch's random state as one of several runs in turn sees it."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu: Tensor | None = None
        self._cuda: list[Tensor] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Be torch's random state inside the block; outside, torch's is as it was."""
        with torch.random.fork_rng(devices=self._devices):
            if self._cpu is not None:
                torch.set_rng_state(self._cpu)
                for device, state in zip(self._devices, self._cuda, strict=True):
                    torch.cuda.set_rng_state(state, device)
            yield
            self._cpu = torch.get_rng_state()
            self._cuda = [torch.cuda.get_rng_state(device) for device in self._devices]
