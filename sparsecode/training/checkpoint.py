"""The folder of a run: who may write to it, and checkpoints that appear complete or not at all.

``checkpoint/state.json`` is the pointer: it names the file of tensors with its SHA-256 and is
replaced atomically after that file lies on the disk. Until then the checkpoint before it is whole.
"""

import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsecode import io

CONFIG, METRICS, EVALUATION = "config.json", "metrics.jsonl", "evaluation.json"
CHECKPOINT, MODEL = "checkpoint", "model"
STATE = "state.json"
RUN_FORMAT, CHECKPOINT_FORMAT, FORMAT_VERSION = "sparsecode.run", "sparsecode.checkpoint", 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read.

    Parameters
    ----------
    tensors : dict of str to Tensor
    numbers : dict
        The counters of the training state.
    constants : dict of str to float
        What was measured on the first rows of the run.
    log : dict
        Position in the file of metrics.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    constants: dict[str, float]
    log: dict[str, Any]


class RunFolder:
    """The folder of one training run.

    Parameters
    ----------
    path : path
    identity : mapping
        What makes a run the same run, ready for JSON: dictionaries of settings by name.
    free : frozenset of str, default=frozenset()
        Settings of ``identity["train"]`` that a resumed run may change.
    resume : bool, default=False
        Go on with the run that is there; without one, start.
    overwrite : bool, default=False
        Remove the run that is there.

    Raises
    ------
    FileExistsError
        If the folder holds a run and neither `resume` nor `overwrite` is set.
    ValueError
        If the folder holds another run, or the ``config.json`` of something else.
    sparsecode.io.CorruptFileError
        If a byte of what `resume` reads is not what was written.
    """

    def __init__(
        self,
        path: str | Path,
        identity: Mapping[str, Mapping[str, Any]],
        *,
        free: frozenset[str] = frozenset(),
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        if resume and overwrite:
            raise ValueError(
                "`resume` and `overwrite` must not both be True; got both. Choose one."
            )
        identity = json.loads(json.dumps(identity))  # tuples become lists, as when read back
        self.path = Path(path)
        self.checkpoint: Checkpoint | None = None
        self.run_id = uuid.uuid4().hex[:12]
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`out_dir` must be a folder; got the file {self.path}.")
        if overwrite:
            self._remove_run()
        if self._holds_run():
            if not resume:
                raise FileExistsError(
                    f"`out_dir` must be new or empty; {self.path} holds {self._what_it_holds()}. "
                    "Use fit(resume=True) to go on with it or fit(overwrite=True) to remove it."
                )
            self._check_same_run(identity, free)
            self.checkpoint = self._read()
        self._sweep()
        io.write_json(
            self.path / CONFIG,
            {
                "format": RUN_FORMAT,
                "format_version": FORMAT_VERSION,
                "run_id": self.run_id,
                **identity,
            },
        )

    def save(
        self,
        tensors: Mapping[str, Tensor],
        numbers: Mapping[str, Any],
        constants: Mapping[str, float],
        log: Mapping[str, Any],
    ) -> None:
        """Replace the checkpoint; a crash at any moment leaves the old or the new one complete."""
        folder = self.path / CHECKPOINT
        stale = set(folder.iterdir()) if folder.is_dir() else set()
        digest = io.save_tensors(folder / "new.safetensors", tensors)
        file = folder / f"tensors-{digest[:16]}.safetensors"
        (folder / "new.safetensors").replace(file)
        io.write_json(
            folder / STATE,
            {
                "format": CHECKPOINT_FORMAT,
                "format_version": FORMAT_VERSION,
                "run_id": self.run_id,
                "tensors": {"file": file.name, "sha256": digest},
                "numbers": dict(numbers),
                "constants": dict(constants),
                "log": dict(log),
            },
        )
        for old in stale - {file, folder / STATE}:
            old.unlink(missing_ok=True)

    def _read(self) -> Checkpoint | None:
        """Return the checkpoint, or None if the run was stopped before its first one."""
        path = self.path / CHECKPOINT / STATE
        if not path.exists():
            return None
        state = io.read_json(path)
        if (
            state.get("format") != CHECKPOINT_FORMAT
            or state.get("format_version") != FORMAT_VERSION
        ):
            raise ValueError(
                f"`{path}` must be of format {CHECKPOINT_FORMAT} version {FORMAT_VERSION}; got "
                f"{state.get('format')!r} version {state.get('format_version')!r}."
            )
        if state["run_id"] != self.run_id:
            raise ValueError(
                f"`{path}` must belong to the run of {self.path / CONFIG} ({self.run_id}); "
                f"it belongs to {state['run_id']}. Restore the folder from a copy."
            )
        tensors = io.load_tensors(
            path.parent / state["tensors"]["file"], sha256=state["tensors"]["sha256"]
        )
        return Checkpoint(tensors, state["numbers"], state["constants"], state["log"])

    def _holds_run(self) -> bool:
        return any((self.path / name).exists() for name in (CONFIG, METRICS, CHECKPOINT))

    def _what_it_holds(self) -> str:
        try:
            step = io.read_json(self.path / CHECKPOINT / STATE)["numbers"]["step"]
        except (OSError, ValueError, KeyError):
            return "files already"
        return f"a run saved at step {step}"

    def _check_same_run(
        self, identity: Mapping[str, Mapping[str, Any]], free: frozenset[str]
    ) -> None:
        if not (self.path / CONFIG).exists():
            raise ValueError(
                f"`{self.path}` must hold {CONFIG} to be resumed; it does not. Use overwrite=True."
            )
        stored = io.read_json(self.path / CONFIG)
        self._check_format(stored)
        self.run_id = stored["run_id"]
        changes = []
        for part, settings in identity.items():
            before = stored.get(part, {})
            for name in dict.fromkeys([*before, *settings]):
                old, new = before.get(name), settings.get(name)
                if old != new and not (part == "train" and name in free):
                    changes.append(f"{part} {name}={old!r}, now {new!r}")
        if changes:
            raise ValueError(
                f"`resume` must go on with the run in {self.path} as it was started, with "
                f"{'; '.join(changes)}. Restore that, or use another `out_dir`."
            )

    def _check_format(self, stored: Mapping[str, Any]) -> None:
        if stored.get("format") != RUN_FORMAT or stored.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"`{self.path / CONFIG}` must be of format {RUN_FORMAT} version {FORMAT_VERSION}; "
                f"got {stored.get('format')!r} version {stored.get('format_version')!r}. "
                "Use another `out_dir`."
            )

    def _remove_run(self) -> None:
        """Remove what a run writes, and only from a folder that holds a run."""
        config = self.path / CONFIG
        if config.exists() and RUN_FORMAT.encode() not in config.read_bytes():
            raise ValueError(
                f"`overwrite` must not remove what is not a training run; {config} is something "
                "else. Use another `out_dir`."
            )
        for name in (CHECKPOINT, MODEL, "tensorboard"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (METRICS, EVALUATION, CONFIG):
            (self.path / name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove the unfinished files of a killed process."""
        for folder in (self.path, self.path / CHECKPOINT, self.path / MODEL):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
