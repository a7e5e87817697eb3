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


class Context:
    """What autograd hands to ``forward`` and ``backward``."""

    needs_input_grad = (True,) * 10

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *_tensors):
        pass

    def set_materialize_grads(self, _value):
        pass


def both_ways(function, *inputs):
    """Run forward and backward of an autograd function with gradients for all outputs."""
    context = Context()
    outputs = function.forward(context, *inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return outputs, function.backward(context, *(torch.ones_like(out) for out in outputs))


def use_every_launcher():
    """Call all of them on tensors that have a device and a shape, and no content."""
    from sparsecode.ops._row_gradient import RowGradient
    from sparsecode.ops.decode import triton as decoding
    from sparsecode.ops.encode import triton as encoding
    from sparsecode.ops.hierarchical import triton as hierarchical
    from sparsecode.ops.rows import triton as rows
    from sparsecode.ops.rows.reference import Step
    from sparsecode.ops.selection import triton as selection

    n, d, f, k = 300, 7, 2000, 5
    x, W, b, pre = (torch.empty(*size, device="meta") for size in ((n, d), (d, f), (f,), (d,)))
    selection.topk(x @ W, 1500)
    selection.batch_topk(x @ W, 1500)
    (values, ids), _ = both_ways(encoding.EncodeTopK, x, W, b, pre, k, True, "min", None)
    flat, latents = values.reshape(-1), ids.reshape(-1)
    crow = torch.arange(n + 1, device="meta") * k
    at = torch.arange(n, device="meta").repeat_interleave(k, output_size=n * k)
    both_ways(decoding.Decode, flat, W.t(), latents, at, crow, None)
    for collector in (None, RowGradient(f)):
        both_ways(decoding.DecodeMSE, flat, W.t(), x, pre, latents, at, crow, k, collector)
        budgets = ([2, k], [0.5, 0.5], collector)
        both_ways(hierarchical.HierarchicalMSE, values, W.t(), x, pre, ids, *budgets)
    state = {name: torch.empty(f, d, device="meta") for name in ("exp_avg", "exp_avg_sq")}
    step = Step(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, count=1, unit_norm=True, rule="adam")
    rows.update(W.t(), collector, None, state, step)


def test_triton_launchers_neither_wait_for_the_gpu_nor_mix_devices(monkeypatch):
    """On tensors without content, reading a value on the host is an error, as is another device."""
    pytest.importorskip("triton")
    from sparsecode.ops import _launch

    seen = set()

    def start(kernel, _grid, *args, **_constants):
        seen.add(kernel.fn.__name__)
        assert {arg.device.type for arg in args if isinstance(arg, torch.Tensor)} == {"meta"}

    monkeypatch.setattr(_launch, "launch", start)
    with torch.no_grad():
        use_every_launcher()
    assert seen == {name.split(".")[1] for path in KERNELS for name in launched(path)}
