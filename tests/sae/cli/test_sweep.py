"""sae sweep over caches side by side."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import sae
from sae.cache import Cache
from sae.cli.app import app

SETTINGS = ["--latents", "24", "-k", "3,4", "--steps", "8", "--batch-size", "64"]
SETTINGS += ["--hookpoints", "encoder.layer.1"]


@pytest.fixture
def at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("at_work")
def test_crosscoders_of_two_caches_are_swept_as_they_are_trained(word_cache: Cache) -> None:
    folder = str(word_cache.path)
    words = [folder, "--join", folder, *SETTINGS, "--arch", "crosscoder"]
    done = CliRunner().invoke(app, ["sweep", *words, "--out", "sweep"])
    assert done.exit_code == 0, done.output
    assert "--join" in done.output.split("sae report")[1]
    words[words.index("-k") + 1] = "4"
    words[words.index("--hookpoints")] = "--hookpoint"
    alone = CliRunner().invoke(app, ["train", *words, "--out", "alone"])
    assert alone.exit_code == 0, alone.output
    runs = [path for path in Path("sweep").iterdir() if "-k4-" in path.name]
    first, second = sae.load(runs[0]), sae.load("alone")
    assert first.config() == second.config()
    assert first.widths == [16, 16]
    assert all(
        torch.equal(one, other)
        for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.usefixtures("at_work")
def test_one_hookpoint_at_a_time_is_joined(word_cache: Cache) -> None:
    folder = str(word_cache.path)
    words = [folder, "--join", folder, "--hookpoints", "a,b", "--out", "sweep"]
    done = CliRunner().invoke(app, ["sweep", *words])
    assert done.exit_code == 2
    assert "`--hookpoints` must be one at most with --join; got 'a,b'" in done.output
