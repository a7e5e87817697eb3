"""Each run of a sweep equals its single run bit for bit, interrupted or not."""

import os
import re
import shutil
import signal
from contextlib import closing
from dataclasses import replace

import pytest
import torch

import sae
from sae.autoencoders import AUTOENCODERS
from sae.sweeps import pareto_front
from sparsecode import io
from sparsecode.datasets import make_sparse_data
from sparsecode.training import TrainingRun

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = sae.TrainConfig(
    batch_size=32, n_steps=24, lr=5e-3, progress=False, log_every=4, eval_every=7, save_every=6
)
GRID = sae.Grid(
    architectures=["topk", "matryoshka", "jumprelu"],
    n_latents=[24],
    k=[2, 4],
    seeds=[0, 1],
    options={"n_sampled": [3]},  # draws from torch's random state at every step
)


def rows() -> torch.Tensor:
    return make_sparse_data(400, 8, 16, 2, noise=0.02)[0]


def alone(member, folder, config=CONFIG, data=None):
    """Train one member as a user would without a sweep."""
    data = rows() if data is None else data
    if member.hookpoint is not None:
        data = data.at(member.hookpoint)
    width = data.n_features if member.hookpoint is not None else data.shape[1]
    model = AUTOENCODERS[member.architecture](n_features=width, **member.settings)
    own = replace(
        config,
        seed=member.seed,
        data_seed=None if member.seed == config.seed else config.seed,
        lr=member.lr or config.lr,
        out_dir=folder / member.name,
    )
    return sae.Trainer(model, data, own).fit()


@pytest.fixture(scope="module")
def single_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("single")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for member in GRID.members():
        alone(member, folder)
    torch.set_num_threads(before)
    return folder


def same(sweep_folder, single_folder, members, outcome) -> bool:
    return all(
        outcome(sweep_folder / member.name) == outcome(single_folder / member.name)
        for member in members
    )


def test_each_run_equals_its_single_run(tmp_path, single_runs, outcome):
    state = torch.get_rng_state()
    result = sae.sweep(rows(), GRID, CONFIG, out_dir=tmp_path, page=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(result.runs) == 12
    assert same(tmp_path, single_runs, GRID.members(), outcome)
    for run in result.runs:
        evaluation = io.read_json(tmp_path / run["name"] / "evaluation.json")
        assert {name: run[name] for name in ("fvu", "l0")} == {
            name: evaluation[name] for name in ("fvu", "l0")
        }
        assert sae.evaluate(sae.load(tmp_path / run["name"]), rows())["fvu"] < 1
    assert io.read_json(tmp_path / "sweep.json")["runs"] == result.runs


@pytest.mark.parametrize("at", [1, 11], ids=str)
def test_an_interrupted_sweep_ends_like_an_undisturbed_one(
    at, tmp_path, single_runs, outcome, monkeypatch
):
    calls, inner = [], sae.TopK.loss_terms

    def loss_terms(model, *args, **kwargs):  # the third of four presses Ctrl-C in the nth step
        calls.append(None)
        if len(calls) == 4 * (at - 1) + 3:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(model, *args, **kwargs)

    monkeypatch.setattr(sae.TopK, "loss_terms", loss_terms)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {at}, and 12 runs were saved"):
        sae.sweep(rows(), GRID, CONFIG, out_dir=tmp_path, page=False)
    monkeypatch.undo()
    sae.sweep(rows(), GRID, CONFIG, out_dir=tmp_path, resume=True, page=False)
    assert same(tmp_path, single_runs, GRID.members(), outcome)


def test_runs_that_were_saved_at_different_steps_go_on_together(tmp_path, single_runs, outcome):
    """As after a kill between two checkpoints, and with a run that never started."""
    members = GRID.members()
    for number, member in enumerate(members[:-1]):
        trainer = _trainer_of(member, tmp_path)
        with (
            trainer.own_folder() as folder,
            trainer.own_task() as task,
            torch.random.fork_rng(),
            closing(TrainingRun(task, trainer.rows, trainer.config, folder=folder)) as run,
            closing(run.batches()) as batches,
        ):
            for _ in range(2 + 3 * (number % 4)):
                run.take(next(batches))
            run.save()
    result = sae.sweep(rows(), GRID, CONFIG, out_dir=tmp_path, resume=True, page=False)
    assert len(result.runs) == 12
    assert same(tmp_path, single_runs, members, outcome)


def _trainer_of(member, folder):
    model = AUTOENCODERS[member.architecture](n_features=8, **member.settings)
    data_seed = None if member.seed == 0 else 0
    own = replace(CONFIG, seed=member.seed, data_seed=data_seed, out_dir=folder / member.name)
    return sae.Trainer(model, rows(), own)


def test_hookpoints_are_read_in_turn(word_cache, tmp_path, outcome):
    cache = sae.cache.open(word_cache.path, hookpoint="encoder.layer.0")
    grid = sae.Grid(
        n_latents=[24], k=[2], seeds=[3, 4], hookpoints=["encoder.layer.0", "encoder.layer.1"]
    )
    found = sae.sweep(cache, grid, CONFIG, out_dir=tmp_path / "sweep", page=False).runs
    assert [run["hookpoint"] for run in found] == ["encoder.layer.0"] * 2 + ["encoder.layer.1"] * 2
    for member in grid.members():
        alone(member, tmp_path / "single", data=cache)
    assert same(tmp_path / "sweep", tmp_path / "single", grid.members(), outcome)


def test_fewer_at_a_time_and_learning_rates(tmp_path, outcome):
    grid = sae.Grid(n_latents=[24], k=[2], lrs=[None, 1e-3, 1e-2])
    sae.sweep(rows(), grid, CONFIG, out_dir=tmp_path / "one", together=1, page=False)
    sae.sweep(rows(), grid, CONFIG, out_dir=tmp_path / "all", page=False)
    assert same(tmp_path / "one", tmp_path / "all", grid.members(), outcome)
    for member in grid.members():
        assert (sae.load(tmp_path / "one" / member.name).W_dec).shape == (24, 8)


def test_a_finished_sweep_is_read_and_a_larger_one_adds_to_it(tmp_path):
    small = sae.Grid(n_latents=[24], k=[2])
    first = sae.sweep(rows(), small, CONFIG, out_dir=tmp_path, page=False)
    stamp = (tmp_path / "topk-24-k2-seed0" / "evaluation.json").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match=r"`out_dir` must be new or empty; .* holds a run"):
        sae.sweep(rows(), small, CONFIG, out_dir=tmp_path, page=False)
    large = sae.Grid(n_latents=[24], k=[2, 3])
    both = sae.sweep(rows(), large, CONFIG, out_dir=tmp_path, resume=True, page=False)
    assert (tmp_path / "topk-24-k2-seed0" / "evaluation.json").stat().st_mtime_ns == stamp
    assert both.runs[0]["fvu"] == first.runs[0]["fvu"]
    again = sae.sweep(rows(), small, CONFIG, out_dir=tmp_path, overwrite=True, page=False)
    assert again.runs[0]["fvu"] == first.runs[0]["fvu"]


def test_a_run_that_diverges_is_given_up_and_the_others_go_on(tmp_path, single_runs, outcome):
    grid = sae.Grid(n_latents=[24], k=[2], lrs=[None, 1e300])
    found = sae.sweep(rows(), grid, CONFIG, out_dir=tmp_path, page=False).runs
    assert [run["failure"] is None for run in found] == [True, False]
    assert "must be finite" in found[1]["failure"]
    assert found[1]["fvu"] is None
    assert not found[1]["front"]
    shutil.copytree(tmp_path / "topk-24-k2-seed0", tmp_path / "copy")
    assert outcome(tmp_path / "copy") == outcome(single_runs / "topk-24-k2-seed0")


def test_the_front():
    runs = [{"l0": l0, "fvu": fvu} for l0, fvu in [(4, 0.3), (2, 0.5), (3, 0.5), (4, 0.2)]]
    assert pareto_front([*runs, {"l0": None, "fvu": None}]) == [runs[1], runs[3]]


def test_what_does_not_fit_is_refused_before_any_run(tmp_path):
    grid = sae.Grid(n_latents=[24], k=[2, 30])
    with pytest.raises(ValueError, match=re.escape("`k` must be an int in [1, n_latents]; got 30")):
        sae.sweep(rows(), grid, CONFIG, out_dir=tmp_path, page=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(TypeError, match=r"`grid` must be a sae.Grid; got dict"):
        sae.sweep(rows(), {"k": [2]}, CONFIG, out_dir=tmp_path)
    own = replace(CONFIG, out_dir=tmp_path)
    with pytest.raises(ValueError, match=r"`config.out_dir` must be None, since each run has a"):
        sae.sweep(rows(), sae.Grid(n_latents=[24], k=[2]), own, out_dir=tmp_path)


def test_the_page_shows_every_run(tmp_path):
    pytest.importorskip("plotly")
    grid = sae.Grid(architectures=["topk", "relu"], n_latents=[24], k=[2, 4], lrs=[None, 1e300])
    found = sae.sweep(rows(), grid, CONFIG, out_dir=tmp_path).runs
    page = (tmp_path / "pareto.html").read_text()
    for run in found:
        assert run["name"] in page
    assert page.count("<tr>") == 1 + len(found)
    assert "http://" not in page.split('id="plotly"')[0]
