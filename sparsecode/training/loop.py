"""The one training loop: it knows steps, rows and dead latents; the task knows the rest."""

import math
from collections.abc import Generator
from contextlib import closing

import torch
from torch import Tensor

from sparsecode.training.checkpoint import Checkpoint, RunFolder
from sparsecode.training.config import TrainConfig
from sparsecode.training.dead_latents import DeadLatents
from sparsecode.training.interrupt import StopRequest
from sparsecode.training.schedules import default_learning_rate, learning_rate_factor
from sparsecode.training.sinks import Metrics
from sparsecode.training.state import (
    Clock,
    RunningMeans,
    TrainState,
    make_optimizer,
    set_learning_rate,
)
from sparsecode.training.task import AbstractTask, RowSource

SAMPLE_ROWS = 8192  # what the data-dependent start sees
SCAN_ROWS = 65_536  # looked at together when bad rows are searched


def train(
    task: AbstractTask, source: RowSource, config: TrainConfig, *, folder: RunFolder | None = None
) -> tuple[TrainState, Metrics]:
    """Train to the end, or go on from the checkpoint of `folder`.

    Parameters
    ----------
    task : AbstractTask
        Its module is on the device to train on.
    source : RowSource
    config : TrainConfig
    folder : RunFolder or None, default=None
        Where checkpoints and metrics go.

    Returns
    -------
    state : TrainState
    metrics : Metrics
        With the rows of all parts of the run in ``history``.

    Raises
    ------
    ValueError
        If rows of `source` hold NaN or infinity; the message names them.
    FloatingPointError
        If the loss or the weights are no longer finite although the data are.
    KeyboardInterrupt
        After Ctrl-C; the present step is finished and saved, and the message says how to go on.
    """
    device = _weights(task).device
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        StopRequest() as stop,
        closing(TrainingRun(task, source, config, folder=folder)) as run,
        closing(run.batches()) as batches,
    ):
        while not run.is_done:
            run.take(next(batches))
            if stop.requested and not run.is_done:
                run.save()
                raise KeyboardInterrupt(_how_to_go_on(run.state, config, folder))
    return run.state, run.metrics


class TrainingRun:
    """A run from its start or its checkpoint on, one batch after the other.

    Several runs may take the batches of one stream in turn, as long as each takes them in a random
    state of its own: all that a run changes beside its state is torch's.

    Parameters
    ----------
    task : AbstractTask
        Its module is on the device to train on.
    source : RowSource
    config : TrainConfig
    folder : RunFolder or None, default=None
        Where checkpoints and metrics go.

    Attributes
    ----------
    state : TrainState
    metrics : Metrics
    """

    def __init__(
        self,
        task: AbstractTask,
        source: RowSource,
        config: TrainConfig,
        *,
        folder: RunFolder | None = None,
    ) -> None:
        self.task, self.source, self.config, self.folder = task, source, config, folder
        self.peak_rate = config.lr or default_learning_rate(
            n_latents=task.n_latents,
            n_features=source.n_features,
            n_steps=config.n_steps,
            batch_size=config.batch_size,
        )
        checkpoint = folder.checkpoint if folder else None
        self.state = start_training(task, source, config, checkpoint=checkpoint)
        try:
            self.metrics = Metrics.open(config, folder, self.state)
            if checkpoint is None:  # from here on, what is resumed has one start
                self.save()
        except BaseException:
            self.state.close()
            raise

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken."""
        return self.state.step >= self.config.n_steps

    def batches(self) -> Generator[Tensor, None, None]:
        """Return the stream from the next batch of this run on."""
        return self.source.batches(
            self.config.batch_size, seed=self.config.order_seed, start_row=self.state.rows
        )

    def take(self, batch: Tensor) -> None:
        """Take one step, and log, evaluate and save where that is due.

        Parameters
        ----------
        batch : Tensor of shape (batch_size, D)
            The next one of the stream.
        """
        config, state = self.config, self.state
        _refuse_bad_rows(batch, self.source)
        rate = self.peak_rate * learning_rate_factor(
            state.step,
            n_steps=config.n_steps,
            warmup_share=config.warmup_share,
            decay_share=config.decay_share,
        )
        take_step(self.task, config, state, batch, rate)
        self.metrics.advance()
        if config.is_due(state.step, config.log_every):
            observed = _observed(self.task, self.source, state)
            self.metrics.write(state, "train", {"lr": rate, **observed})
        if config.is_due(state.step, config.eval_every):
            self.metrics.write(state, "heldout", self.task.evaluate())
        if config.is_due(state.step, config.save_every):
            self.save()

    def save(self) -> None:
        """Write a checkpoint, where there is a folder."""
        if self.folder is None:
            return
        if self.state.step:
            _refuse_bad_weights(self.state)
        state = self.state
        position = self.metrics.position()
        self.folder.save(state.tensors(), state.numbers(), self.task.constants, position)

    def close(self) -> None:
        """Let go of the files of metrics, and of the gradients."""
        self.metrics.close()
        self.state.close()


def new_state(task: AbstractTask, config: TrainConfig) -> TrainState:
    """Return the state before the first step of a task that has its ``constants``.

    Parameters
    ----------
    task : AbstractTask
    config : TrainConfig

    Returns
    -------
    TrainState
    """
    optimizer = make_optimizer(task.parameter_groups(), config)
    device = _weights(task).device
    dead = DeadLatents(task.n_latents, dead_after=config.tokens_to_death, device=device)
    return TrainState(task.module, optimizer, dead, RunningMeans(), Clock())


def take_step(
    task: AbstractTask, config: TrainConfig, state: TrainState, batch: Tensor, rate: float
) -> None:
    """Take one optimizer step; `train` and the estimators' ``partial_fit`` consist of these.

    Parameters
    ----------
    task : AbstractTask
    config : TrainConfig
    state : TrainState
        Changed in place.
    batch : Tensor of shape (N, D)
        Finite rows, on any device.
    rate : float
        Learning rate of this step.
    """
    set_learning_rate(state.optimizer, rate)
    task.set_progress(min(1.0, state.step / config.n_steps))
    _accumulate_gradients(task, config, state, batch)
    if config.max_grad_norm is not None:
        state.optimizer.clip_grad_norm_(config.max_grad_norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.dead.advance(len(batch))
    state.step += 1
    state.rows += len(batch)


def start_training(
    task: AbstractTask,
    source: RowSource,
    config: TrainConfig,
    *,
    checkpoint: Checkpoint | None = None,
) -> TrainState:
    """Let a task start on its data, or go on from a checkpoint; sets torch's random state.

    Parameters
    ----------
    task : AbstractTask
    source : RowSource
    config : TrainConfig
    checkpoint : Checkpoint or None, default=None

    Returns
    -------
    TrainState
        Before the next step to take.
    """
    if checkpoint is not None:
        task.constants = checkpoint.constants
        state = new_state(task, config)
        try:
            state.restore(checkpoint.tensors, checkpoint.numbers)
        except BaseException:
            state.close()
            raise
        return state
    torch.manual_seed(config.seed)
    weights = _weights(task)
    task.start(_sample(source, config).to(weights.device, weights.dtype))
    return new_state(task, config)


def _accumulate_gradients(task, config, state, batch) -> None:
    """Add up the gradients of the parts of a step: they are those of the whole batch."""
    weights = _weights(task)
    dead_latents = state.dead.mask()
    for part in batch.chunk(config.accumulate):
        x = part.to(weights.device, weights.dtype)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = task.losses(x, dead_latents)
        (losses.total * (len(part) / len(batch))).backward()
        state.dead.see(losses.codes)
        l0 = (losses.codes.values.detach() != 0).sum() / len(part)
        state.means.add({"loss": losses.total, **losses.observed, "l0": l0}, len(part))


def _observed(task, source, state) -> dict[str, float]:
    """Return the means since the last row of metrics, after a look at them."""
    n_rows, means = state.means.n_rows, state.means.read()
    if not all(math.isfinite(value) for value in means.values()):
        _name_bad_rows(source)
        raise FloatingPointError(
            f"The loss must be finite; it became NaN or infinite within the {n_rows} rows before "
            f"the end of step {state.step}. Use a lower `lr`, or a `max_grad_norm`."
        )
    dead = {"dead_fraction": float(state.dead.fraction())}
    return means | dead | task.scheduled() | state.clock.lap(n_rows)


def _refuse_bad_weights(state) -> None:
    if not state.is_finite():
        raise FloatingPointError(
            f"The weights must be finite to be saved; they are not after step {state.step}. Use a "
            "lower `lr`, or a `max_grad_norm`. The checkpoint before stays as it is."
        )


def _refuse_bad_rows(batch: Tensor, source: RowSource) -> None:
    """Refuse NaN and infinity before they reach the weights.

    A batch on a GPU is not waited for: there the loss shows them later.
    """
    if batch.device.type == "cpu":
        total = batch.sum(dtype=torch.float64 if batch.dtype == torch.float64 else torch.float32)
        if not bool(torch.isfinite(total)) and not bool(torch.isfinite(batch).all()):
            _name_bad_rows(source)


def _name_bad_rows(source: RowSource) -> None:
    """Raise with the places of rows that are not finite, if there are any."""
    first, last, count = None, None, 0
    for start in range(0, source.n_rows, SCAN_ROWS):
        bad = ~torch.isfinite(source.rows(start, min(start + SCAN_ROWS, source.n_rows))).all(1)
        places = bad.nonzero().flatten() + start
        if len(places):
            first = int(places[0]) if first is None else first
            last, count = int(places[-1]), count + len(places)
    if count:
        raise ValueError(
            f"`data` must be finite; got NaN or infinity in {count} of {source.n_rows} rows, "
            f"between row {first} and row {last}. Drop or repair them first."
        )


def _sample(source, config) -> Tensor:
    with closing(
        source.batches(min(SAMPLE_ROWS, source.n_rows), seed=config.order_seed, start_row=0)
    ) as first:
        sample = next(first)
    _refuse_bad_rows(sample, source)
    return sample


def _weights(task) -> Tensor:
    return next(task.module.parameters())


def _how_to_go_on(state, config, folder) -> str:
    done = f"Training was stopped after step {state.step} of {config.n_steps}"
    if folder is None:
        return f"{done}; nothing was saved since `out_dir` is None. The model keeps its weights."
    return f"{done} and saved in {folder.path}. Go on with fit(resume=True)."
