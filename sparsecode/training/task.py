"""What the loop needs of the thing it trains and of the data it trains on."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from sparsecode.codes import SparseCodes


class RowSource(Protocol):
    """Rows of data: by number, and as an endless stream of shuffled batches."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    @property
    def n_features(self) -> int:
        """Width of a row."""
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Return rows in their stored order."""
        ...

    def batches(
        self, batch_size: int, *, seed: int, start_row: int
    ) -> Generator[Tensor, None, None]:
        """Yield full batches without end, after skipping `start_row` rows of the stream."""
        ...


@dataclass(frozen=True)
class StepLosses:
    """What `AbstractTask.losses` returns for a part of a step.

    Parameters
    ----------
    total : Tensor, scalar
        What is minimized: a mean over rows, free of the unit of the data.
    observed : dict of str to Tensor
        Scalars to log, means over rows.
    codes : SparseCodes of shape (N, F)
        Latents with a value other than 0 count as fired.
    """

    total: Tensor
    observed: dict[str, Tensor]
    codes: SparseCodes


class AbstractTask(ABC):
    """A module to train, its loss on a batch, and what it must know of the data beforehand.

    Subclasses set `module` and `n_latents` in their constructor and `constants` in `start`; a
    resumed run gets the constants of its checkpoint back instead of measuring again.
    """

    module: nn.Module
    n_latents: int
    constants: dict[str, Any]

    @abstractmethod
    def start(self, sample: Tensor) -> None:
        """Adapt the module to a sample of the data and set `constants`."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups for `RowAdam`, each with the ``lr_scale`` that its parameters live on."""

    @abstractmethod
    def set_progress(self, progress: float) -> None:
        """Follow the schedules at a share of the run in [0, 1); called before each step."""

    @abstractmethod
    def losses(self, batch: Tensor, dead_latents: Tensor | None) -> StepLosses:
        """Return the losses of a batch on the device and in the dtype of the module."""

    @abstractmethod
    def scheduled(self) -> dict[str, float]:
        """Return what to log of the schedules of the last step."""

    @abstractmethod
    def evaluate(self) -> dict[str, Any] | None:
        """Return metrics on held-out rows, or None without such rows; must change no state."""
