"""The commands, from a text to a report, and what they say when something is wrong."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

import sae
import sae.interpret
from sae.autoencoders import AUTOENCODERS
from sae.cache import Cache
from sae.cli import app
from sae.cli.options import field_docs, markup, parameter_docs
from sae.cli.runs import parsed
from sparsecode import io
from sparsecode.training import TrainConfig

SMALL = ["--latents", "48", "-k", "4", "--steps", "20", "--batch-size", "64"]

FLAGS = {
    "cache": """--append --batch-size --context-length --debug --device --drop-outliers
        --drop-special-tokens/--keep-special-tokens --dtype --help --hookpoints --max-tokens --out
        --progress/--no-progress --resume/--no-resume --shard-rows --text-column --text-unit
        --tokenizer""",
    "train": """--accumulate --arch --arch-option --batch-size --betas --data-seed
        --dead-after-tokens --debug --decay-share --device --eps --eval-every --eval-rows
        --heldout-fraction --help --hookpoint --join --k-anneal-share --k-start --latents
        --log-every --loggers --lr --max-grad-norm --normalize --optimizer --out --overwrite
        --precision --progress/--no-progress --resume --save-every --seed --steps
        --warmup-share -k""",
    "evaluate": """--batch-size --budgets --debug --heldout-fraction --help --hookpoint --join
        --json --labels --lm --max-rows --method --other --progress/--no-progress --split --suite
        --texts""",
    "report": """--debug --examples --help --hookpoint --join --max-rows --out
        --progress/--no-progress""",
    "dashboard": """--debug --examples --help --hookpoint --join --lm --max-rows
        --neuronpedia/--no-neuronpedia --out --progress/--no-progress""",
    "explain": """--debug --help --hookpoint --join --key-file --latents --max-rows --model --out
        --seed --url""",
    "sweep": """--accumulate --arch --arch-option --batch-size --betas --data-seed
        --dead-after-tokens --debug --decay-share --device --eps --eval-every --eval-rows
        --heldout-fraction --help --hookpoints --join --k-anneal-share --k-start --latents
        --log-every
        --loggers --lr --max-grad-norm --normalize --optimizer --out --overwrite --precision
        --progress/--no-progress --resume --save-every --seeds --steps --together --warmup-share
        -k""",
    "export": "--debug --format --help --out",
    "push": "--debug --dry-run --help --hookpoint --private --revision",
}

Sae = Callable[..., Result]


@pytest.fixture
def run_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sae:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words], prog_name="sae")


@pytest.fixture(scope="session")
def small_run(word_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    words = ["train", str(word_cache.path), "--hookpoint", "encoder.layer.1", *SMALL]
    done = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def flags_of(command: str) -> set[str]:
    found = set()
    for parameter in get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if parameter.param_type_name == "option":
            longest = max(parameter.opts, key=len)
            off = parameter.secondary_opts
            found.add(f"{longest}/{off[0]}" if off else longest)
    return found


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_pinned(command: str) -> None:
    assert flags_of(command) | {"--help"} == set(FLAGS[command].split())


def test_commands_come_in_the_order_in_which_one_needs_them() -> None:
    assert list(get_command(app).commands) == list(FLAGS)  # type: ignore[attr-defined]


def test_train_has_an_option_for_every_field() -> None:
    names = {name.strip("-").replace("-", "_") for name in flags_of("train")}
    names = {name.split("/")[0] for name in names}
    fields = set(TrainConfig.__dataclass_fields__)
    assert fields - names == {"n_steps", "out_dir"}  # --steps and --out


@pytest.mark.parametrize("command", FLAGS)
def test_help_has_examples_defaults_and_no_python(run_sae: Sae, command: str) -> None:
    done = run_sae(command, "--help")
    text = " ".join(re.sub(r"[^\x20-\x7e]", " ", done.output).split())
    assert done.exit_code == 0
    assert f"$ sae {command} " in text
    assert "None" not in text
    assert "[default: " in text


def test_commands_in_the_help_are_commands(run_sae: Sae) -> None:
    """Every example can be parsed: its options exist and its arguments suffice."""
    shown = []
    for command in ("", *FLAGS):
        help_text = get_command(app) if not command else get_command(app).commands[command]  # type: ignore[attr-defined]
        shown += re.findall(r"\$\[/dim\] sae (.*)", help_text.epilog)
    assert len(shown) > 10
    for line in shown:
        name, *words = shlex.split(line)
        get_command(app).commands[name].make_context(name, words)  # type: ignore[attr-defined]


def test_from_texts_to_a_report(run_sae: Sae, bert_folder: Path, texts_file: Path) -> None:
    cached = run_sae(
        "cache", bert_folder, texts_file, "--hookpoints", "encoder.layer.1", "--out", "acts"
    )
    assert cached.exit_code == 0, cached.output
    cache = sae.cache.open("acts")
    assert f"Rows (tokens) {cache.n_rows}" in " ".join(cached.output.split())
    assert "sae train acts --out run" in cached.output

    trained = run_sae("train", "acts", "--arch", "topk", *SMALL, "--out", "run")
    assert trained.exit_code == 0, trained.output
    assert "run/model" in trained.output
    evaluation = io.read_json(Path("run/evaluation.json"))
    assert f"{evaluation['fvu']:.4f}" in trained.output
    model = sae.load("run")
    assert (model.n_latents, model.config()["k"]) == (48, 4)

    Path("run/evaluation.json").unlink()
    evaluated = run_sae("evaluate", "run", "acts")
    assert evaluated.exit_code == 0, evaluated.output
    assert f"{evaluation['fvu']:.4f}" in evaluated.output
    assert io.read_json(Path("run/evaluation.json")) == evaluation

    reported = run_sae("report", "run", "acts", "--out", "page.html", "--examples", "2")
    assert reported.exit_code == 0, reported.output
    assert Path("page.html").resolve().as_uri() in reported.output
    assert "<!doctype html>" in Path("page.html").read_text()


def test_a_dashboard_of_a_run(run_sae: Sae, small_run: Path, word_cache: Cache) -> None:
    done = run_sae("dashboard", small_run, word_cache.path, "--examples", "2", "--out", "site")
    assert done.exit_code == 0, done.output
    assert Path("site/index.html").resolve().as_uri() in done.output
    assert len(list(Path("site/data").iterdir())) == 3
    again = run_sae("dashboard", small_run, word_cache.path, "--no-neuronpedia", "--out", "site")
    assert again.exit_code == 0, again.output
    assert not Path("site/neuronpedia").exists()


def test_evaluate_prints_json_alone(run_sae: Sae, small_run: Path, word_cache: Cache) -> None:
    shutil.copytree(small_run, "run")
    done = run_sae("evaluate", "run", word_cache.path, "--json", "--max-rows", "20")
    metrics = json.loads(done.stdout)
    assert 0 < metrics["n_rows"] <= 20
    assert metrics["split"] == "heldout"


def test_a_suite_is_printed_and_kept(
    run_sae: Sae, small_run: Path, word_cache: Cache, bert_folder: Path
) -> None:
    shutil.copytree(small_run, "run")
    Path("text.txt").write_text("the king sat on a mat .")
    line = ["--suite", "full", "--lm", bert_folder, "--texts", "text.txt", "--other", small_run]
    done = run_sae("evaluate", "run", word_cache.path, *line)
    assert done.exit_code == 0, done.output
    found = io.read_json(Path("run/suite.json"))
    assert found["loss"]["kind"] == "encoder"
    assert found["stability"]["shared"] == 1.0
    assert found["left_out"] == {}
    for number in (found["dictionary"]["coherence"], found["probing"]["accuracy_codes"]):
        assert f"{number:.4f}" in done.output
    core = run_sae("evaluate", "run", word_cache.path, "--suite", "core", "--json")
    assert json.loads(core.stdout)["left_out"] == {"loss": "a language model and texts"}


def test_the_hookpoint_of_the_run_is_found_again(
    run_sae: Sae, small_run: Path, word_cache: Cache
) -> None:
    shutil.copytree(small_run, "run")
    trained = io.read_json(small_run / "evaluation.json")
    found = json.loads(run_sae("evaluate", "run", word_cache.path, "--json").stdout)
    other = run_sae("evaluate", "run", word_cache.path, "--hookpoint", "encoder.layer.0", "--json")
    assert found["fvu"] == trained["fvu"]
    assert json.loads(other.stdout)["fvu"] != trained["fvu"]


def test_several_hookpoints_with_commas(run_sae: Sae, bert_folder: Path, texts_file: Path) -> None:
    names = "encoder.layer.1, encoder.layer.0"
    done = run_sae("cache", bert_folder, texts_file, "--hookpoints", names, "--out", "acts")
    assert done.exit_code == 0, done.output
    assert sae.cache.open("acts", "encoder.layer.0").n_features == 16
    assert "sae train acts --hookpoint encoder.layer.0 --out run" in done.output


def test_an_array_does_in_place_of_a_cache(run_sae: Sae) -> None:
    np.save("rows.npy", np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32))
    options = ["--heldout-fraction", "0", *SMALL]
    assert run_sae("train", "rows.npy", *options, "--out", "run").exit_code == 0
    done = run_sae("evaluate", "run", "rows.npy", "--json")
    assert json.loads(done.stdout)["split"] == "all"  # nothing was held out
    assert json.loads(done.stdout)["n_rows"] == 400
    assert run_sae("report", "run", "rows.npy").exit_code == 0


def test_evaluate_keeps_to_the_rows_that_the_run_held_out(run_sae: Sae) -> None:
    rows = np.random.default_rng(0).normal(size=(800, 8)).astype(np.float32)
    np.save("rows.npy", rows)
    np.save("other.npy", rows[:300])
    assert run_sae("train", "rows.npy", *SMALL, "--out", "run").exit_code == 0
    trained = io.read_json(Path("run/evaluation.json"))
    assert json.loads(run_sae("evaluate", "run", "rows.npy", "--json").stdout) == trained
    for words, split in [
        (["rows.npy", "--split", "train"], "train"),
        (["rows.npy", "--max-rows", "9"], "heldout"),
        (["other.npy"], "all"),
    ]:
        other = json.loads(run_sae("evaluate", "run", *words, "--json").stdout)
        assert other["split"] == split
        assert other["n_rows"] != trained["n_rows"]
        assert io.read_json(Path("run/evaluation.json")) == trained


def test_settings_of_an_architecture(run_sae: Sae, word_cache: Cache) -> None:
    words = ["--hookpoint", "encoder.layer.0", "--arch", "k_sparse", "--arch-option", "alpha=2.0"]
    options = [*SMALL, "--arch-option", "anneal_share=0.25", "--seed", "7"]
    done = run_sae("train", word_cache.path, *words, *options, "--out", "run")
    assert done.exit_code == 0, done.output
    model = sae.load("run")
    assert isinstance(model, sae.KSparse)
    assert (model.alpha, model.anneal_share, model.k, model.seed) == (2.0, 0.25, 4, 7)


def test_the_defaults_of_the_command_are_those_of_python(run_sae: Sae, word_cache: Cache) -> None:
    words = ["--hookpoint", "encoder.layer.0", "--steps", "2", "--latents", "64", "-k", "4"]
    assert run_sae("train", word_cache.path, *words, "--out", "run").exit_code == 0
    stored = io.read_json(Path("run/config.json"))
    expected = TrainConfig(n_steps=2, out_dir="run").to_dict()
    assert stored["train"] == json.loads(json.dumps(expected))
    default = sae.TopK(n_features=16, n_latents=64, k=4, seed=0).config()
    assert {name: stored["model"][name] for name in default} == default


def test_resume_takes_the_settings_of_the_run(
    run_sae: Sae, small_run: Path, word_cache: Cache
) -> None:
    shutil.copytree(small_run, "run")
    shutil.rmtree("run/model")
    done = run_sae("train", word_cache.path, "--out", "run", "--resume")
    assert done.exit_code == 0, done.output
    mine, theirs = sae.load("run"), sae.load(small_run)
    for name, tensor in mine.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])
    other = run_sae("train", word_cache.path, "--out", "run", "--resume", "--steps", "40")
    assert other.exit_code == 2
    assert "n_steps=20, now 40" in other.stderr


def test_version(run_sae: Sae) -> None:
    assert re.fullmatch(r"sparsecode \d+\.\d+\S*\n", run_sae("--version").output)


WRONG = {
    "cache {bert} {texts} --hookpoints encoder.layers.1 --out acts": (
        "Error: `--hookpoints` must name modules of the BertModel; 'encoder.layers.1' matches "
        "none. Did you mean 'encoder.layer.1'"
    ),
    "cache {bert} nowhere.txt --hookpoints encoder.layer.1 --out acts": (
        "Error: `TEXT` must name existing files; there is no file 'nowhere.txt'."
    ),
    "cache ./nowhere {texts} --hookpoints encoder.layer.1 --out acts": (
        "Error: `MODEL` must be a transformers model on the Hugging Face hub or a folder with one;"
    ),
    "train {cache} --out run2": "Error: `--hookpoint` must be named, since",
    "train nowhere --out run2": "Error: `DIR` must be the folder of a cache made by `sae cache`",
    "train {cache} --hookpoint encoder.layer.1 --out {run}": (
        "Use --resume to go on with it or --overwrite to remove it."
    ),
    "train {rows} --arch topp --out run2": (
        f"Error: `--arch` must be one of {', '.join(AUTOENCODERS)}; got 'topp'. Did you mean"
    ),
    "train {rows} --arch-option aux=3 --out run2": (
        "Error: `--arch-option` must name a setting of topk; 'aux' is none. Did you mean"
    ),
    "train {rows} --arch-option k_aux --out run2": (
        "Error: `--arch-option` must have the form NAME=VALUE; got 'k_aux'."
    ),
    "train {rows} --latents 16 -k 17 --out run2": (
        "Error: `-k` must be an int in [1, n_latents]; got 17 with n_latents=16."
    ),
    "train {rows} --warmup-share 2 --out run2": "Error: `warmup_share` must be a finite number in",
    "train {nan} --latents 8 -k 2 --out run2": "Error: `DIR` must be finite; got NaN or infinity",
    "evaluate nowhere {cache}": "Error: `RUN` must be what sae.save or a finished training run",
    "evaluate {run} {rows}": "Error: `DIR` must have shape (rows, n_features) = (any, 16)",
    "report {run} nowhere": "Error: `DIR` must be the folder of a cache made by `sae cache`",
    "report {run} {cache} --examples 0": "Error: `--examples` must be an int in [1, inf); got 0.",
}


@pytest.mark.parametrize("line", WRONG, ids=lambda line: re.sub(r"[{} ]+", "-", line))
def test_errors_are_one_sentence(
    line: str,
    run_sae: Sae,
    bert_folder: Path,
    texts_file: Path,
    word_cache: Cache,
    small_run: Path,
) -> None:
    rows = np.ones((50, 8), dtype=np.float32)
    np.save("rows.npy", rows)
    rows[7, 3] = np.nan
    np.save("nan.npy", rows)
    places = {"bert": bert_folder, "texts": texts_file, "cache": word_cache.path, "run": small_run}
    words = line.format(**places, rows="rows.npy", nan="nan.npy").split()
    done = run_sae(*words)
    assert done.exit_code == 2
    assert WRONG[line] in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_debug_shows_the_traceback(run_sae: Sae) -> None:
    done = run_sae("train", "nowhere", "--out", "run", "--debug")
    assert isinstance(done.exception, FileNotFoundError)


def test_unknown_options_are_answered_with_the_usage(run_sae: Sae) -> None:
    done = run_sae("train", "acts", "--out", "run", "--step", "4")
    assert done.exit_code == 2
    assert "--steps" in done.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(word_cache: Cache, tmp_path: Path) -> None:
    words = ["train", str(word_cache.path), "--hookpoint", "encoder.layer.0", "--steps", "100000"]
    words += ["--latents", "48", "-k", "4", "--batch-size", "64", "--out", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sae", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(sae.__file__).parents[1])},
    )
    log = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert output == ""
    assert re.search(r"Training was stopped after step \d+ of 100000 and saved in run\.", errors)
    assert shlex.join(["sae", *words, "--resume"]) in errors
    assert (tmp_path / "run" / "checkpoint" / "state.json").exists()


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_help_names_the_settings_of_each_architecture(run_sae: Sae, name: str) -> None:
    text = " ".join(re.sub(r"[^\x20-\x7e]", " ", run_sae("train", "--help").output).split())
    assert f"{name}: " in text


def test_a_sweep_ends_with_a_table_and_a_page_and_leaves_runs(
    run_sae: Sae, word_cache: Cache
) -> None:
    lists = ["--arch", "topk,relu", "--latents", "48", "-k", "2,4", "--lr", "0.001,1e300"]
    lists += ["--arch-option", "l1_coefficient=0.1", "--hookpoints", "encoder.layer.1"]
    options = ["--steps", "20", "--batch-size", "64", "--out", "sweep"]
    done = run_sae("sweep", word_cache.path, *lists, *options)
    assert done.exit_code == 0, done.output
    name = "encoder.layer.1-topk-48-k4-seed0-lr0.001"
    assert re.search(rf"{name} +0\.\d+ +4\.00 +\d+\.\d%", done.output)
    assert "on the front" in done.output
    assert "The loss must be finite" in done.output  # the runs at a rate of 1e300
    assert Path("sweep/pareto.html").stat().st_size > 1e6
    again = run_sae("sweep", word_cache.path, *lists, *options)
    assert again.exit_code == 2
    assert "--resume" in again.output
    assert run_sae("sweep", word_cache.path, *lists, *options, "--resume").exit_code == 0
    evaluated = run_sae("evaluate", f"sweep/{name}", word_cache.path, "--json")
    assert json.loads(evaluated.stdout) == io.read_json(Path("sweep", name, "evaluation.json"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--arch", "topp"], "Error: `--arch` must be among topk, "),
        (["-k", "4,"], "Error: `-k` must be values separated by commas; got '4,'."),
        (["--arch-option", "bandwidth"], "Error: `--arch-option` must have the form NAME=A,B; got"),
        (["--arch-option", "bandwidth=1"], "Error: `--arch-option` must name settings of one of"),
        (["--seeds", "x"], "Error: `--seeds` must be an int"),
    ],
    ids=str,
)
def test_a_sweep_refuses_what_cannot_be(
    run_sae: Sae, word_cache: Cache, options: list[str], sentence: str
) -> None:
    done = run_sae("sweep", word_cache.path, *options, "--out", "sweep")
    assert done.exit_code == 2
    assert sentence in done.output


@pytest.mark.parametrize("arch", ["transcoder", "crosscoder"])
def test_hookpoints_side_by_side(run_sae: Sae, word_cache: Cache, arch: str) -> None:
    both = ["--hookpoint", "encoder.layer.0+encoder.layer.1", "--normalize", "mean_square"]
    done = run_sae("train", word_cache.path, "--arch", arch, *both, *SMALL, "--out", "run")
    assert done.exit_code == 0, done.output
    assert ("FVU at hookpoint 1" in done.output) == (arch == "crosscoder")
    evaluated = run_sae("evaluate", "run", word_cache.path, "--json")  # knows its hookpoints
    assert json.loads(evaluated.stdout) == io.read_json(Path("run/evaluation.json"))
    assert run_sae("report", "run", word_cache.path, "--out", "page.html").exit_code == 0
    alone = ["--hookpoint", "encoder.layer.0", "--arch", "transcoder", *SMALL]
    done = run_sae("train", word_cache.path, *alone, "--out", "other")
    assert done.exit_code == 2
    assert "Error: `--hookpoint` must name an input and a target for Transcoder" in done.output


def test_caches_side_by_side(run_sae: Sae, word_cache: Cache, tmp_path: Path) -> None:
    shutil.copytree(word_cache.path, tmp_path / "other")
    both = [str(word_cache.path), "--join", "other", "--hookpoint", "encoder.layer.1"]
    done = run_sae("train", *both, "--arch", "crosscoder", *SMALL, "--out", "run")
    assert done.exit_code == 0, done.output
    assert sae.load("run").config()["widths"] == [16, 16]
    evaluated = run_sae("evaluate", "run", *both, "--json")
    assert json.loads(evaluated.stdout) == io.read_json(Path("run/evaluation.json"))
    alone = run_sae("evaluate", "run", word_cache.path)  # one cache twice would be no answer
    assert alone.exit_code == 2
    assert run_sae("report", "run", *both, "--out", "page.html").exit_code == 0


def test_values_of_settings_are_literals_or_words() -> None:
    texts = ["a=3", "b=0.5", "c=True", "d=None", "e=mixed", "f=1e-3", "g=", "h=(1, 2)", "i=x=y"]
    values = [3, 0.5, True, None, "mixed", 1e-3, "", (1, 2), "x=y"]
    assert list(parsed(texts).values()) == values


def test_help_comes_from_the_docstrings() -> None:
    docs = field_docs(TrainConfig)
    assert set(docs) == set(TrainConfig.__dataclass_fields__)
    assert docs["batch_size"] == "Rows (tokens) of one optimizer step."
    assert parameter_docs(sae.cache.write)["batch_size"].startswith("Full contexts in one forward")
    assert {"before", "after"} <= set(parameter_docs(sae.interpret.browser_data))


def test_help_texts_for_a_terminal() -> None:
    assert markup("A number; None takes `lr` in [0, 1).") == (
        "A number; no value takes [cyan]lr[/cyan] in [0, 1)."
    )
    assert markup("Some text. None does [this].") == "Some text. No value does \\[this]."


def test_export_writes_what_others_load(run_sae: Sae, tmp_path: Path) -> None:
    model = sae.TopK(n_features=6, n_latents=24, k=3, seed=0)
    sae.save(model, tmp_path / "model")
    out = tmp_path / "exported"
    done = run_sae("export", str(tmp_path / "model"), "--format", "sparsify", "--out", str(out))
    assert "cfg.json, sae.safetensors" in done.output
    assert torch.equal(sae.load(out).W_dec, model.W_dec)
    wrong = run_sae("export", str(tmp_path / "model"), "--format", "sparse")
    assert wrong.exit_code == 2
    assert "`--format` must be one of saelens" in wrong.stderr


def test_push_shows_what_a_dry_run_would_commit(run_sae: Sae, tmp_path: Path) -> None:
    sae.save(sae.TopK(n_features=6, n_latents=24, k=3, seed=0), tmp_path / "model")
    done = run_sae("push", str(tmp_path / "model"), "me/it", "--hookpoint", "h.3", "--dry-run")
    assert "To me/it, if it were not a dry run" in done.output
    assert "h.3/README.md" in done.output


def test_push_that_is_refused_says_what_to_do(run_sae: Sae, hub: Any, tmp_path: Path) -> None:
    hub.refuse_writing = True
    sae.save(sae.TopK(n_features=6, n_latents=24, k=3, seed=0), tmp_path / "model")
    done = run_sae("push", str(tmp_path / "model"), "me/it")
    assert done.exit_code == 2
    assert "that you may write to; the hub refuses" in " ".join(done.stderr.split())
