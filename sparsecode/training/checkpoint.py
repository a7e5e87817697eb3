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
CHECKPOINT, MODEL, TENSORBOARD = "checkpoint", "model", "tensorboard"
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
    constants : dict
        What was measured on the first rows of the run.
    log : dict
        Position in the file of metrics.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    constants: dict[str, Any]
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
        Remove the run that is there, when `begin` is called.

    Raises
    ------
    FileExistsError
        If the folder holds a run and neither `resume` nor `overwrite` is set, or files of the
        same names that are no run.
    ValueError
        If the run there was started with other settings.
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
        self._identity, self._overwrite = identity, overwrite
        if not self._names_in_use():
            return
        self._refuse_foreign(resume)
        if resume:
            self._check_same_run(identity, free)
            self.checkpoint = self._read()
        elif not overwrite:
            raise FileExistsError(
                f"`out_dir` must be new or empty; {self.path} holds {self._what_it_holds()}. "
                "Use fit(resume=True) to go on with it or fit(overwrite=True) to remove it."
            )

    def begin(self) -> None:
        """Write what the run is; until then nothing in the folder has changed."""
        if self._overwrite:
            self._remove_run()
        self._sweep()
        io.write_json(
            self.path / CONFIG,
            {
                "format": RUN_FORMAT,
                "format_version": FORMAT_VERSION,
                "run_id": self.run_id,
                **self._identity,
            },
        )

    def save(
        self,
        tensors: Mapping[str, Tensor],
        numbers: Mapping[str, Any],
        constants: Mapping[str, Any],
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

    def _names_in_use(self) -> list[str]:
        names = (CONFIG, METRICS, EVALUATION, CHECKPOINT, MODEL, TENSORBOARD)
        return [name for name in names if (self.path / name).exists()]

    def _refuse_foreign(self, resume: bool) -> None:
        """Refuse a folder whose files of these names are not those of a run."""
        path = self.path / CONFIG
        if not path.exists():
            fact = f"{self.path} holds {', '.join(self._names_in_use())} and no {CONFIG} of a run"
        elif not resume and RUN_FORMAT.encode() not in path.read_bytes():
            fact = f"{path} is something else"
        else:
            return
        raise FileExistsError(
            f"`out_dir` must be new, empty or hold a training run; {fact}. Use another `out_dir`."
        )

    def _what_it_holds(self) -> str:
        try:
            step = io.read_json(self.path / CHECKPOINT / STATE)["numbers"]["step"]
        except (OSError, ValueError, KeyError):
            return "a run"
        return f"a run saved at step {step}"

    def _check_same_run(
        self, identity: Mapping[str, Mapping[str, Any]], free: frozenset[str]
    ) -> None:
        stored = io.read_json(self.path / CONFIG)
        if stored.get("format") != RUN_FORMAT or stored.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"`{self.path / CONFIG}` must be of format {RUN_FORMAT} version {FORMAT_VERSION}; "
                f"got {stored.get('format')!r} version {stored.get('format_version')!r}. "
                "Use another `out_dir`."
            )
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

    def _remove_run(self) -> None:
        """Remove what a run writes; ``config.json``, which says that it is one, comes last."""
        for name in (CHECKPOINT, MODEL, TENSORBOARD):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (METRICS, EVALUATION, CONFIG):
            (self.path / name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove the unfinished files of a killed process."""
        for folder in (self.path, self.path / CHECKPOINT, self.path / MODEL):
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
