"""Where metrics go: a JSON line each, a progress bar, TensorBoard, Weights & Biases."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsecode import io
from sparsecode.training.checkpoint import METRICS, RunFolder
from sparsecode.training.config import TrainConfig
from sparsecode.training.state import TrainState

Row = dict[str, Any]
NOT_FOR_CURVES = ("step", "split")


class AbstractSink(ABC):
    """Takes rows of metrics; must change nothing else."""

    @abstractmethod
    def write(self, row: Row) -> None:
        """Take one row."""

    @abstractmethod
    def close(self) -> None:
        """Finish; called once, also after an error."""


class JsonLines(AbstractSink):
    """A file with one JSON object a line, which a resumed run takes up where its checkpoint stands.

    Parameters
    ----------
    path : path
    position : mapping or None, default=None
        What `position` returned when the checkpoint was written; what was logged later is cut
        off. None starts an empty file.

    Raises
    ------
    sparsecode.io.CorruptFileError
        If the lines before the position are not those that were written.
    """

    def __init__(self, path: Path, position: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.rows: list[Row] = []
        kept = b""
        if position is not None and path.exists():
            kept = path.read_bytes()[: position["bytes"]]
            if hashlib.sha256(kept).hexdigest() != position["sha256"]:
                raise io.CorruptFileError(
                    f"`{path}` must begin with the {position['bytes']} bytes that were written "
                    "before the checkpoint; its SHA-256 differs. Restore it, or delete it to go on "
                    "without the earlier metrics."
                )
            self.rows = [json.loads(line) for line in kept.splitlines()]
        with io.one_sentence(path):
            self._file = path.open("r+b" if path.exists() else "wb")
            self._file.truncate(len(kept))
            self._file.seek(len(kept))
        self._bytes, self._sha256 = len(kept), hashlib.sha256(kept)

    def write(self, row: Row) -> None:
        """Append one line; it is complete or absent after a crash of this process."""
        line = json.dumps(row).encode() + b"\n"
        with io.one_sentence(self.path):
            self._file.write(line)
            self._file.flush()
        self._bytes += len(line)
        self._sha256.update(line)

    def position(self) -> dict[str, Any]:
        """Bring all lines to the disk and return what a checkpoint must know of them."""
        with io.one_sentence(self.path):
            os.fsync(self._file.fileno())
        return {"bytes": self._bytes, "sha256": self._sha256.hexdigest()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ProgressBar(AbstractSink):
    """A bar of steps with the last error, number of latents, dead share and speed.

    Parameters
    ----------
    n_steps : int
    start : int
        Steps done before.
    show : bool or None
        None shows it on a terminal only.
    """

    def __init__(self, n_steps: int, *, start: int, show: bool | None) -> None:
        from tqdm.auto import tqdm

        disable = None if show is None else not show
        self._bar = tqdm(total=n_steps, initial=start, disable=disable, unit="step", desc="train")

    def advance(self) -> None:
        """Count one step."""
        self._bar.update()

    def write(self, row: Row) -> None:
        """Show the numbers of a row of training metrics."""
        if row.get("split") != "train":
            return
        forms = {"fvu": "{:.4f}", "loss": "{:.4f}", "l0": "{:.1f}", "dead_fraction": "{:.1%}"}
        forms["tokens_per_second"] = "{:,.0f}"
        names = {"dead_fraction": "dead", "tokens_per_second": "tokens/s"}
        hidden = {"loss"} if "fvu" in row else set()
        shown = {
            names.get(key, key): form.format(row[key])
            for key, form in forms.items()
            if key in row and key not in hidden
        }
        self._bar.set_postfix(shown)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


class TensorBoard(AbstractSink):
    """Curves for TensorBoard, below ``tensorboard/`` in the folder of the run.

    Parameters
    ----------
    folder : path
        Of the run.
    start : int
        Step of the checkpoint; later points of an earlier attempt are hidden.
    """

    def __init__(self, folder: Path, *, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None

        self._writer = SummaryWriter(
            str(folder / "tensorboard"), purge_step=start + 1 if start else None
        )

    def write(self, row: Row) -> None:
        """Add one point to each curve."""
        for name, value in _curves(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases(AbstractSink):
    """Curves for Weights & Biases; ``WANDB_MODE=offline`` keeps them in the folder of the run.

    Parameters
    ----------
    folder : path
        Of the run.
    run_id : str
        The same for all parts of an interrupted run.
    config : mapping
        Settings to show beside the curves.
    """

    def __init__(self, folder: Path, *, run_id: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None

        self._run = wandb.init(
            project="sparsecode",
            name=folder.resolve().name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def write(self, row: Row) -> None:
        """Send one row."""
        self._run.log(_curves(row), step=row["step"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class Metrics:
    """Keeps all rows in memory and hands each to the sinks.

    Parameters
    ----------
    bar : ProgressBar
    lines : JsonLines or None, default=None
        The file of metrics, where there is a folder.
    others : sequence of AbstractSink, default=()
    """

    def __init__(
        self, bar: ProgressBar, lines: JsonLines | None = None, others: Sequence[AbstractSink] = ()
    ) -> None:
        self.history: list[Row] = [] if lines is None else list(lines.rows)
        self._bar, self._lines = bar, lines
        self._sinks: list[AbstractSink] = [bar, *([] if lines is None else [lines]), *others]

    @classmethod
    def open(cls, config: TrainConfig, folder: RunFolder | None, state: TrainState) -> "Metrics":
        """Open the sinks of a run; rows after its checkpoint are cut off.

        Parameters
        ----------
        config : TrainConfig
        folder : RunFolder or None
        state : TrainState
            As it is before the next step.
        """
        if folder is not None:
            folder.begin()
        bar = ProgressBar(config.n_steps, start=state.step, show=config.progress)
        if folder is None:
            return cls(bar)
        lines = JsonLines(
            folder.path / METRICS, folder.checkpoint.log if folder.checkpoint else None
        )
        others: list[AbstractSink] = []
        if "tensorboard" in config.loggers:
            others.append(TensorBoard(folder.path, start=state.step))
        if "wandb" in config.loggers:
            others.append(
                WeightsAndBiases(folder.path, run_id=folder.run_id, config=config.to_dict())
            )
        return cls(bar, lines, others)

    def write(self, state: TrainState, split: str, values: Mapping[str, Any] | None) -> None:
        """Keep a row and pass it on; None is no row."""
        if values is None:
            return
        row = {"step": state.step, "tokens": state.rows, "split": split, **values}
        self.history.append(row)
        for sink in self._sinks:
            sink.write(row)

    def advance(self) -> None:
        """Count one step."""
        self._bar.advance()

    def position(self) -> dict[str, Any]:
        """Return where the file of metrics stands, for a checkpoint; it is on the disk then."""
        return {} if self._lines is None else self._lines.position()

    def close(self) -> None:
        """Close all sinks."""
        for sink in self._sinks:
            sink.close()


def _curves(row: Row) -> dict[str, float]:
    prefix = "" if row["split"] == "train" else f"{row['split']}/"
    return {f"{prefix}{name}": value for name, value in row.items() if name not in NOT_FOR_CURVES}


def _missing(package: str) -> ImportError:
    return ImportError(
        f"`loggers=[{package!r}]` needs the package {package}; it cannot be imported. "
        "Run: pip install 'sparsecode[logging]'"
    )
