"""Resumed runs equal undisturbed ones, and what is not the same run is refused."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sae
from sparsecode import io
from sparsecode.datasets import make_sparse_data

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"batch_size": 32, "n_steps": 30, "lr": 5e-3, "progress": False, "log_every": 4}
QUICK |= {"eval_every": 7, "save_every": 6, "dead_after_tokens": 200}


def rows() -> torch.Tensor:
    return make_sparse_data(300, 8, 16, 2, noise=0.02)[0]


def topk(**settings) -> sae.TopK:
    return sae.TopK(**{"n_features": 8, "n_latents": 24, "k": 2, "seed": 0, **settings})


def k_sparse(**settings) -> sae.KSparse:
    return sae.KSparse(
        **{"n_features": 8, "n_latents": 24, "k": 2, "k_start": 8, "seed": 0, **settings}
    )


def bilinear(**settings) -> sae.Bilinear:
    options = {"n_features": 8, "n_latents": 24, "variant": "mixed", "center": True, "seed": 0}
    return sae.Bilinear(**{**options, **settings})


def fit(model, folder, data=None, *, resume=False, overwrite=False, **settings):
    config = sae.TrainConfig(**{**QUICK, "out_dir": folder, **settings})
    data = rows() if data is None else data
    return sae.Trainer(model, data, config).fit(resume, overwrite=overwrite)


def outcome(folder: Path) -> dict:
    """Everything that a run leaves but the time and the name of the run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = {"wall_time", "tokens_per_second"}
    return {
        "metrics": [{k: v for k, v in row.items() if k not in clock} for row in lines],
        "evaluation": io.read_json(folder / "evaluation.json"),
        "weights": {p.name: p.read_bytes() for p in (folder / "model").glob("weights*")},
        "state": {p.name for p in (folder / "checkpoint").glob("tensors*")},  # named by digest
    }


class Stops:
    """Presses Ctrl-C when the loss is asked for the nth time, whatever the model."""

    def __init__(self, model, at: tuple[int, ...]) -> None:
        self.steps, self.at = 0, at
        self.inner = model.loss_terms
        model.loss_terms = self

    def __call__(self, *args, **kwargs):
        self.steps += 1
        if self.steps in self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner(*args, **kwargs)


CASES = [(make, optimizer) for make in (topk, k_sparse) for optimizer in ("row_adam", "adam")]


@pytest.mark.parametrize(("make", "optimizer"), [*CASES, (topk, "muon"), (bilinear, "muon")])
@pytest.mark.parametrize("steps", [(1, 1), (5, 3), (6, 7), (28, 1)], ids=str)
def test_an_interrupted_run_ends_like_an_undisturbed_one(make, optimizer, steps, tmp_path):
    settings = {"optimizer": optimizer, "accumulate": 2}
    whole = fit(make(), tmp_path / "whole", **settings)
    for part in steps:
        model = make()
        Stops(model, (2 * part,))
        with pytest.raises(KeyboardInterrupt):
            fit(model, tmp_path / "parts", resume=True, **settings)
    resumed = fit(make(), tmp_path / "parts", resume=True, **settings)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    assert len(resumed.history) == len(whole.history)
    times = [row["wall_time"] for row in resumed.history if "wall_time" in row]
    assert times == sorted(times)


def test_what_a_run_leaves(tmp_path):
    result = fit(topk(), tmp_path)
    assert result.out_dir == tmp_path
    names = {"config.json", "metrics.jsonl", "evaluation.json", "checkpoint", "model"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert io.read_json(tmp_path / "evaluation.json") == result.evaluation
    assert len(result.evaluation["firing_frequency"]) == 24
    config = io.read_json(tmp_path / "config.json")
    assert config["train"]["batch_size"] == 32
    assert config["model"]["architecture"] == "TopK"
    assert config["data"]["n_features"] == 8
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history
    loaded = sae.load(tmp_path)
    x = rows()
    assert torch.equal(loaded(x), result.model(x))


def test_resuming_a_finished_run_repeats_its_results(tmp_path):
    first = fit(topk(), tmp_path)
    before = outcome(tmp_path)
    shutil.rmtree(tmp_path / "model")  # as if killed between the last checkpoint and the results
    (tmp_path / "evaluation.json").unlink()
    again = fit(topk(), tmp_path, resume=True)
    assert outcome(tmp_path) == before
    assert again.history == first.history
    assert again.evaluation == first.evaluation


def test_a_run_without_a_checkpoint_starts(tmp_path):
    fit(topk(), tmp_path / "whole")
    fit(topk(), tmp_path / "new", resume=True)
    assert outcome(tmp_path / "new") == outcome(tmp_path / "whole")


def test_a_run_that_failed_before_its_first_step_leaves_nothing(tmp_path):
    bad = rows()
    bad[:, 3] = float("nan")
    with pytest.raises(ValueError, match="must be finite"):
        fit(topk(), tmp_path / "run", torch.cat([rows(), bad]))
    assert not (tmp_path / "run").exists()
    fit(topk(), tmp_path / "run")


def test_one_model_object_resumes_exactly_before_the_first_checkpoint(tmp_path, monkeypatch):
    fit(topk(), tmp_path / "whole", save_every=30)
    model = topk()
    calls, terms = iter(range(100)), model.loss_terms

    def inner(*args, **kwargs):
        if next(calls) == 7:
            raise RuntimeError("the power went")
        return terms(*args, **kwargs)

    monkeypatch.setattr(model, "loss_terms", inner)
    with pytest.raises(RuntimeError, match="the power went"):
        fit(model, tmp_path / "parts", save_every=30)
    monkeypatch.undo()
    fit(model, tmp_path / "parts", resume=True, save_every=30)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_two_trainers_do_not_share_a_folder(tmp_path):
    with (
        io.only_writer(tmp_path / "run"),
        pytest.raises(OSError, match="must have one writer at a time"),
    ):
        fit(topk(), tmp_path / "run")
    fit(topk(), tmp_path / "run")


def test_a_finished_run_is_not_overwritten_by_accident(tmp_path):
    fit(topk(), tmp_path)
    before = outcome(tmp_path)
    with pytest.raises(
        FileExistsError, match=r"holds a run saved at step 30. Use fit\(resume=True"
    ):
        fit(topk(), tmp_path)
    assert outcome(tmp_path) == before
    fit(topk(seed=1), tmp_path, overwrite=True)
    assert outcome(tmp_path)["weights"].keys() != before["weights"].keys()


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (topk, {"n_steps": 60}, r"with train n_steps=30, now 60\. Restore that"),
        (topk, {"batch_size": 16, "lr": 1e-3}, r"batch_size=32, now 16; train lr=0.005, now 0.001"),
        (lambda: topk(k=3), {}, "with model k=2, now 3"),
        (lambda: topk(n_latents=25), {}, "with model n_latents=24, now 25"),
        (lambda: topk().double(), {}, "dtype='torch.float32', now 'torch.float64'"),
        (k_sparse, {}, "with model architecture='TopK', now 'KSparse'"),
        (topk, {"data": rows() + 1e-6}, "data fingerprint="),
        (topk, {"data": rows()[:-1]}, r"data n_rows=\d+, now \d+"),
    ],
)
def test_another_run_is_not_resumed(make, change, message, tmp_path):
    fit(topk(), tmp_path)
    with pytest.raises(ValueError, match=message):
        fit(make(), tmp_path, resume=True, **change)


def test_what_does_not_matter_may_change_on_resume(tmp_path):
    fit(topk(), tmp_path / "old")
    before = outcome(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "moved")
    fit(topk(), tmp_path / "moved", resume=True, save_every=1, progress=None, device="cpu")
    assert outcome(tmp_path / "moved") == before


def damage(path: Path, generator: random.Random) -> str:
    """Flip one bit or cut the file; return what was done."""
    raw = path.read_bytes()
    place = generator.randrange(len(raw))
    if generator.random() < 0.3:
        path.write_bytes(raw[:place])
        return f"{path.name} cut at {place} of {len(raw)}"
    flipped = bytes([raw[place] ^ 1 << generator.randrange(8)])
    path.write_bytes(raw[:place] + flipped + raw[place + 1 :])
    return f"{path.name} flipped at {place} of {len(raw)}"


def read(part: str, folder: Path) -> None:
    if part == "checkpoint":
        fit(topk(), folder, resume=True, n_steps=6)
    else:
        sae.load(folder / "model")


@pytest.mark.parametrize("part", ["checkpoint", "model"])
def test_every_flipped_bit_and_every_cut_is_refused(part, tmp_path):
    fit(topk(), tmp_path / "run", n_steps=6)
    generator = random.Random(0)
    for trial in range(200):
        folder = tmp_path / str(trial)
        shutil.copytree(tmp_path / "run", folder)
        files = sorted((folder / part).iterdir())
        files += [folder / "config.json"] if part == "checkpoint" else []
        done = damage(generator.choice(files), generator)
        with pytest.raises(ValueError, match=r"^`.*(safetensors|json)` must .*\.$"):
            read(part, folder)
        shutil.rmtree(folder)
        assert done


FULL_DISK = """
import json, resource, sys
import sae
from sparsecode.datasets import make_sparse_data

def fill_disk(progress):
    if progress == 0.5:  # from here on no file may grow beyond 2,000 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

model = sae.TopK(n_features=8, n_latents=24, k=2, seed=0)
model.set_progress = fill_disk
data = make_sparse_data(300, 8, 16, 2, noise=0.02)[0]
try:
    sae.Trainer(model, data, sae.TrainConfig(**json.loads(sys.argv[1]))).fit()
except OSError as error:
    print(error)
"""


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    settings = json.dumps({**QUICK, "out_dir": str(tmp_path / "run")})
    call = [sys.executable, "-c", FULL_DISK, settings]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    assert "must be writable; File too large" in done.stdout
    assert io.read_json(tmp_path / "run/checkpoint/state.json")["numbers"]["step"] == 12
    fit(topk(), tmp_path / "run", resume=True)
    fit(topk(), tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
