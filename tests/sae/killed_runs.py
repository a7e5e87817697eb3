"""Train in forked children that are killed without warning; print what the resumed runs left.

Run by test_trainer_killed.py in a process of its own, so that each run costs a fork and no import:
``python killed_runs.py FOLDER`` prints one JSON object.
"""

import faulthandler
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # which the first step of an optimizer loads: a second for every child

import sae
from sparsecode.datasets import make_sparse_data

N_RANDOM_KILLS = 20
N_TOUCHES = 40
SETTINGS = {"batch_size": 64, "n_steps": 24, "lr": 5e-3, "log_every": 3, "eval_every": 10}
SETTINGS |= {"save_every": 2, "dead_after_tokens": 500, "progress": False}
PATIENCE = 120  # seconds; a child that takes longer prints where it stands and fails


def train(folder: Path) -> None:
    """Train to the end, from the checkpoint if there is one."""
    torch.set_num_threads(1)
    data = make_sparse_data(2000, 16, 32, 3, noise=0.02)[0]
    model = sae.TopK(n_features=16, n_latents=64, k=3, seed=0)
    sae.Trainer(model, data, sae.TrainConfig(out_dir=folder, **SETTINGS)).fit(resume=True)


def train_until_event(folder: Path, n: int) -> None:
    """Train, and die at the nth time that something in the folder of the run is touched."""
    touched = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal touched
        if event not in ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.chmod"):
            return
        paths = [os.fsdecode(arg) for arg in args if isinstance(arg, (str, bytes))]
        touched += any(str(folder) in path for path in paths)
        if touched == n:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    train(folder)


def in_child(work, *args, seconds: float | None = None) -> bool:
    """Run in a forked child, killed after some seconds; return whether it was killed.

    The parent never trains: a process that has had threads cannot be forked safely.
    """
    child = os.fork()
    if child == 0:
        code = 1
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            work(*args)
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def outcome(folder: Path) -> dict[str, str]:
    """Return digests of all that a run leaves, but for times and the name of the run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("wall_time", "tokens_per_second")
    metrics = json.dumps([{k: v for k, v in row.items() if k not in clock} for row in rows])
    found = {"metrics.jsonl": hashlib.sha256(metrics.encode()).hexdigest()}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name not in ("metrics.jsonl", "state.json", "config.json"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def killed_at_random_moments(root: Path, whole: dict[str, str], duration: float) -> dict[str, int]:
    """Kill, resume to the end, compare; until there were enough kills."""
    found, generator = {"killed": 0, "ended before": 0, "same": 0}, random.Random(0)
    while found["killed"] < N_RANDOM_KILLS and found["ended before"] < 5 * N_RANDOM_KILLS:
        folder = root / f"random-{found['killed'] + found['ended before']}"
        killed = in_child(train, folder, seconds=generator.random() * duration)
        in_child(train, folder)
        found["killed" if killed else "ended before"] += 1
        found["same"] += outcome(folder) == whole
        if not killed:  # the machine has become faster
            duration *= 0.8
    return found


def killed_at_each_touch(root: Path, whole: dict[str, str]) -> dict[str, int]:
    """Kill at the nth touch of a file and resume, with the next n, until the run ends; compare."""
    found, folder = {"killed": 0, "ended": 0, "same": 0}, root / "touch-0"
    for n in range(1, N_TOUCHES + 1):
        killed = in_child(train_until_event, folder, n)
        found["killed"] += killed
        if n == N_TOUCHES and killed:
            in_child(train, folder)
        if n == N_TOUCHES or not killed:
            found["ended"] += 1
            found["same"] += outcome(folder) == whole
            folder = root / f"touch-{n}"
    return found


def main(root: Path) -> None:
    """Print what happened."""
    assert not in_child(train, root / "first")  # what a first run must wait for is not measured
    start = time.perf_counter()
    assert not in_child(train, root / "whole")
    duration = time.perf_counter() - start
    whole = outcome(root / "whole")
    moments = killed_at_random_moments(root, whole, duration)
    print(json.dumps({"moments": moments, "touches": killed_at_each_touch(root, whole)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
