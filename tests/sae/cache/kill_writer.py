"""Kill a writer at random moments and let it continue; print what was found as JSON.

Run by test_session.py in a process of its own: the model is built once, and each writer is a fork.
"""

import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import sae.cache

N_KILLS = 20
PATIENCE = 120  # seconds; a child that takes longer prints where it stands and fails
IDS = [[1 + (i * j) % 30 for j in range(3 + i % 9)] for i in range(150)]


class Model(nn.Module):
    """Two layers that take a noticeable time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 64)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden).tanh()
        return hidden


def write(model: Model, out: Path) -> None:
    sae.cache.write(
        model, IDS, "layers.*", out, context_length=12, batch_size=4, shard_rows=100, progress=False
    )


def fork(model: Model, out: Path) -> int:
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            write(model, out)
        except BaseException as error:  # the parent reads the status
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def run(model: Model, out: Path) -> float:
    """Write without disturbance in a fork; return the seconds it took."""
    start = time.perf_counter()
    _, status = os.waitpid(fork(model, out), 0)
    assert status == 0, f"the writer ended with status {status}"
    return time.perf_counter() - start


def files(out: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the time of change of every file."""
    return {
        str(path.relative_to(out)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def main(folder: Path) -> dict[str, int]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Model()
    run(model, folder / "warm")
    seconds = run(model, folder / "undisturbed")
    expected = {name: content for name, (content, _) in files(folder / "undisturbed").items()}
    rng = random.Random(0)
    found = {"interrupted": 0, "with_shards": 0, "different": 0, "written_again": 0, "shards": 0}
    found["shards"] = sum(name.startswith("index/") for name in expected)
    for number in range(5 * N_KILLS):
        if found["interrupted"] >= N_KILLS:
            break
        out = folder / f"killed{number}"
        child = fork(model, out)
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        found["interrupted"] += os.WIFSIGNALED(status)
        if not os.WIFSIGNALED(status):  # the machine has become faster
            seconds *= 0.8
        before = files(out) if out.exists() else {}
        finished = [
            name.removeprefix("journal/") for name in before if name.startswith("journal/0")
        ]
        found["with_shards"] += bool(finished)
        run(model, out)
        after = files(out)
        found["different"] += {name: content for name, (content, _) in after.items()} != expected
        for name in finished:
            index = f"index/{name.removesuffix('.json')}.safetensors"
            found["written_again"] += before[index] != after[index]
        shutil.rmtree(out)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
