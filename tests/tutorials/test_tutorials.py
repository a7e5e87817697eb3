"""Each tutorial runs from top to bottom in a process of its own; its asserts check its text."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "tutorials").glob("*.py"))

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


@each_script
def test_tutorial_runs(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(tmp_path.iterdir()), "a tutorial cleans up what it writes"


@each_script
def test_tutorial_asserts_what_it_claims(script: Path) -> None:
    source = script.read_text()
    assert any(isinstance(node, ast.Assert) for node in ast.parse(source).body)
    assert source.count("\n# %%") >= 3, "cells are what makes it a page and a notebook"
    assert script.stem.startswith("plot_"), "sphinx-gallery runs only plot_*.py"


def test_there_are_tutorials() -> None:
    assert SCRIPTS
