"""Importing does no work and needs no optional package; checked in fresh processes."""

import subprocess
import sys
from pathlib import Path

import pytest

OPTIONAL = ("triton", "transformers", "datasets", "jinja2", "plotly", "tensorboard", "wandb")

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)

sys.meta_path.insert(0, Blocker())
"""

USE_THE_REFERENCE = """
import torch
import sparsecode

x = torch.tensor([[1.0, 5.0, 2.0], [0.0, -1.0, 3.0]], requires_grad=True)
dictionary = torch.arange(6.0).reshape(3, 2).requires_grad_()
codes = sparsecode.topk(x, 2, impl="reference")
sparsecode.decode(codes, dictionary, impl="reference").sum().backward()
assert codes.indices.tolist() == [[1, 2], [2, 0]]
assert x.grad.tolist() == [[0, 5, 9], [1, 0, 9]]
assert dictionary.grad.tolist() == [[0, 0], [5, 5], [5, 5]]
"""

STATE = """
import logging, os, random, signal, sys, threading, warnings
import numpy, scipy.sparse, sklearn.base, torch, tqdm

def state():
    return {
        "environment": dict(os.environ),
        "files": sorted(os.listdir()),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "torch threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": numpy.random.get_state()[1].tolist(),
        "python random state": random.getstate(),
        "log handlers": list(logging.getLogger().handlers),
        "log level": logging.getLogger().level,
        "python threads": threading.active_count(),
        "interrupt handler": signal.getsignal(signal.SIGINT),
        "recursion limit": sys.getrecursionlimit(),
    }

before = state()
import retrieval, sae, sparsecode
after = state()
assert all(package.__file__ for package in (retrieval, sae, sparsecode))
changed = [name for name in before if before[name] != after[name]]
assert not changed, f"importing changed: {changed}"
"""


def run(source: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_the_reference_runs_where_no_optional_package_is_installed(tmp_path: Path) -> None:
    blocked = {*OPTIONAL, "sklearn"}
    run(f"BLOCKED = {blocked}\n{BLOCKER}\n{USE_THE_REFERENCE}", tmp_path)


@pytest.mark.parametrize("package", ["sparsecode", "sae", "retrieval"])
def test_packages_import_where_no_optional_package_is_installed(
    package: str, tmp_path: Path
) -> None:
    run(f"BLOCKED = {set(OPTIONAL)}\n{BLOCKER}\nimport {package}", tmp_path)


@pytest.mark.parametrize("package", ["sparsecode", "sae", "retrieval"])
def test_importing_loads_no_heavy_package(package: str, tmp_path: Path) -> None:
    heavy = {*OPTIONAL, "matplotlib", "pandas", "sklearn"}
    # What torch itself loads is not ours.
    source = f"import sys, torch\ntheirs = set(sys.modules)\nimport {package}\n"
    source += f"loaded = {heavy} & (set(sys.modules) - theirs)\nassert not loaded, loaded"
    run(source, tmp_path)


def test_importing_changes_no_global_state(tmp_path: Path) -> None:
    run(STATE, tmp_path)
