"""What launchers share, and what is true of all kernels: they compile for real GPUs, unspilt."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]


def jitted(path: Path) -> list[ast.FunctionDef]:
    """Return the functions of a file that Triton compiles."""
    functions = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
    return [f for f in functions if "triton.jit" in map(ast.unparse, f.decorator_list)]


KERNELS = [path for path in sorted(ROOT.glob("sparsecode/ops/*/triton.py")) if jitted(path)]


def launched(path: Path) -> set[str]:
    """Return the kernels of a file that its launchers start."""
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    starts = [c for c in calls if ast.unparse(c.func) == "_launch.launch"]
    return {f"{path.parent.name}.{ast.unparse(call.args[0])}" for call in starts}


def test_triton_sizes_and_empty_grids():
    launch = pytest.importorskip("sparsecode.ops._launch")
    assert [launch.power_of_2(n) for n in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]
    assert [launch.cdiv(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    launch.launch("no kernel", (3, 0), torch.zeros(1))


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.parent.name)
def test_every_masked_load_says_what_it_reads_instead(path):
    """The interpreter reads 0 where a GPU reads anything."""
    loads = [
        call
        for function in jitted(path)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.load"
    ]
    assert loads
    for call in loads:
        keywords = {keyword.arg for keyword in call.keywords}
        assert "mask" not in keywords or "other" in keywords, ast.unparse(call)


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.parent.name)
def test_offsets_do_not_overflow(path):
    """A program id is made 64 bits wide before anything multiplies it by a stride."""
    products = [
        node
        for function in jitted(path)
        for node in ast.walk(function)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
    ]
    assert products
    assert not [ast.unparse(p) for p in products if ast.unparse(p.left) == "tl.program_id(0)"]


def test_triton_kernels_compile_for_gpus_that_are_not_there():
    pytest.importorskip("triton")
    script = ROOT / "tests" / "benchmarks" / "compile_kernels.py"
    done = subprocess.run(
        [sys.executable, str(script), "--capability", "90"],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert {row["kernel"] for row in rows} == set().union(*map(launched, KERNELS))
    assert not [row for row in rows if row["spill_stores"] or row["spill_loads"]]
    assert not [row for row in rows if row["shared_bytes"] > 100_000]
