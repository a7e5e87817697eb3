"""One pass over rows in their order: what `partial_fit` of an estimator does."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor

from sparsecode._checks import check_finite
from sparsecode.training.checkpoint import Checkpoint
from sparsecode.training.config import TrainConfig
from sparsecode.training.loop import start_training, take_step
from sparsecode.training.schedules import learning_rate_factor
from sparsecode.training.state import TrainState
from sparsecode.training.task import AbstractTask, RowSource

RATE_AFTER_THE_END = 0.1  # share of the learning rate in steps beyond `config.n_steps`


def one_pass(
    task: AbstractTask,
    source: RowSource,
    config: TrainConfig,
    *,
    batch_size: int,
    start: Checkpoint | None = None,
    n_taken: int = 0,
) -> TrainState:
    """Take a step for every `batch_size` rows of `source`, in their order.

    Parameters
    ----------
    task : AbstractTask
        Its module holds the weights to go on from.
    source : RowSource
    config : TrainConfig
        Of the whole training, with a learning rate.
    batch_size : int
        Rows of a step at most; the steps have nearly equally many.
    start : Checkpoint or None, default=None
        What the training before left beside the weights and random states. None starts anew.
    n_taken : int, default=0
        Steps before, which the random state depends on.

    Returns
    -------
    TrainState

    Raises
    ------
    FloatingPointError
        If the weights are no longer finite.
    """
    weight = next(task.module.parameters())
    with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
        torch.manual_seed(config.seed + n_taken)
        if start is not None:
            start = replace(start, tensors=_weights_and_random(task) | start.tensors)
        with closing(start_training(task, source, config, checkpoint=start)) as state:
            for batch in _parts(source, batch_size):
                check_finite("X", batch)
                take_step(task, config, state, batch, _learning_rate(config, state.step))
    if not state.is_finite():
        raise FloatingPointError(
            f"The weights must be finite; after step {state.step} they are not. Use a lower `lr`."
        )
    return state


def _weights_and_random(task: AbstractTask) -> dict[str, Tensor]:
    """Return what estimators leave out of a checkpoint."""
    weights = {f"model.{name}": tensor for name, tensor in task.module.state_dict().items()}
    return weights | {"random.cpu": torch.get_rng_state()}


def _learning_rate(config: TrainConfig, step: int) -> float:
    assert config.lr is not None  # estimators have set it
    if step >= config.n_steps:
        return config.lr * RATE_AFTER_THE_END
    shares = {"warmup_share": config.warmup_share, "decay_share": config.decay_share}
    return config.lr * learning_rate_factor(step, n_steps=config.n_steps, **shares)


def _parts(source: RowSource, batch_size: int) -> Iterator[Tensor]:
    """Yield all rows in parts of nearly equal size, at most `batch_size`."""
    n_parts = -(-source.n_rows // batch_size)
    for part in range(n_parts):
        yield source.rows(part * source.n_rows // n_parts, (part + 1) * source.n_rows // n_parts)
