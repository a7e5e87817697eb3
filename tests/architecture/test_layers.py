"""Import direction: the contracts in pyproject.toml hold, and each of them can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(folder), "PYTHONIOENCODING": "utf-8"},
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("sparsecode", "sae", "retrieval"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "data")
        )
    return tmp_path


def test_layers_hold(copied: Path) -> None:
    done = lint(copied)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "added", "contract"),
    [
        ("sparsecode/codes.py", "from sparsecode import datasets", "Layers of sparsecode"),
        ("sparsecode/codes.py", "import triton", "Triton is imported by kernels only"),
        ("sparsecode/io.py", "import sae", "do not know each other"),
        ("sparsecode/metrics_of_mine.py", "", "Layers of sparsecode"),
        ("sparsecode/ops/_row_gradient.py", "import sparsecode.ops.encode", "of the operations"),
        (
            "sparsecode/ops/decode/reference.py",
            "import sparsecode.ops.decode.cpu",
            "Implementations of one operation",
        ),
        ("sparsecode/ops/decode/cpu.py", "import sklearn", "by estimators only"),
        ("sae/autoencoders/base.py", "import sae.cache", "Layers of sae"),
        ("sae/autoencoders/base.py", "import transformers", "Language models are loaded"),
        ("sae/autoencoders/base.py", "def f():\n    import plotly", "Pages and plots"),
        ("sae/autoencoders/base.py", "def f():\n    import wandb", "Loggers are opened"),
    ],
)
def test_a_forbidden_import_is_found(copied: Path, module: str, added: str, contract: str) -> None:
    path = copied / module
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{added}\n")
    done = lint(copied)
    assert done.returncode == 1
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert any(contract in line for line in broken)
