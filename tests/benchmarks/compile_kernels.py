"""Compile every kernel for a GPU that is not there, and say what each one takes of it.

    python tests/benchmarks/compile_kernels.py [--capability 90] [--json FILE]

The public shapes go through the launchers with a driver that knows only the name of the chip:
each launch compiles its kernel with the very arguments that a GPU would get, and runs nothing.
``ptxas`` then tells registers, spills and shared memory. Needs no GPU and TRITON_INTERPRET unset.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))


class NamedChip:
    """As much of a driver as the compiler asks for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> object:
        """Return the chip to compile for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """Return the only device."""
        return 0

    def get_current_stream(self, _device: int) -> int:
        """Return the only stream."""
        return 0


def compiled(capability: int, work: Callable[[], None]) -> dict:
    """Run `work` with launches that only compile; return the kernels by name and constants."""
    from triton.runtime import JITFunction, driver

    kernels, run = {}, JITFunction.run

    def compile_only(self: JITFunction, *args: object, **options: object) -> object:
        kernel = run(self, *args, **{**options, "warmup": True})
        constants = {n: v for n, v in options.items() if n.isupper() or n == "num_warps"}
        label = f"{self.fn.__module__.split('.')[-2]}.{self.fn.__name__}"
        kernels[kernel.hash] = (label, constants, kernel)
        return kernel

    driver.set_active(NamedChip(capability))
    JITFunction.run = compile_only
    try:
        work()
    finally:
        JITFunction.run = run
    return kernels


def resources(ptx: str) -> dict[str, int]:
    """Return what ``ptxas`` reports for one kernel."""
    import triton

    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    chip = re.search(r"\.target (\w+)", ptx).group(1)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        command = [ptxas, "-v", "-arch", chip, source, "-o", Path(folder) / "kernel.cubin"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    number = lambda pattern: int(re.search(pattern, report).group(1))  # noqa: E731
    return {
        "registers": number(r"Used (\d+) registers"),
        "spill_stores": number(r"(\d+) bytes spill stores"),
        "spill_loads": number(r"(\d+) bytes spill loads"),
    }


def every_kernel() -> None:
    """Call every launcher at a shape that training meets, and at odd ones."""
    import torch

    # What kernels would have written is read by later steps of a launcher, so it must be in range.
    torch.empty = torch.zeros
    torch.Tensor.new_empty = torch.Tensor.new_zeros
    from sparsecode.ops._row_gradient import RowGradient
    from sparsecode.ops.decode import triton as decoding
    from sparsecode.ops.hierarchical import triton as hierarchical
    from sparsecode.ops.rows import triton as rows
    from sparsecode.ops.rows.reference import Step
    from sparsecode.ops.selection import triton as selection

    x = torch.randn(2, 65536, dtype=torch.bfloat16)
    selection.topk(x, 64)
    selection.topk(x.float(), 100)
    selection.topk(x, 1000)
    selection.batch_topk(x, 128)

    W_dec, target = torch.randn(512, 768, dtype=torch.bfloat16), torch.randn(2, 768)
    for k, dtype in ((64, torch.bfloat16), (100, torch.float32)):
        W_dec, target = W_dec.to(dtype), target.to(dtype)
        values, indices = torch.rand(2 * k, dtype=dtype), torch.arange(2 * k)
        crow, row_ids = torch.tensor([0, k, 2 * k]), torch.arange(2 * k) // k
        decoding.gather_sum(values, indices, crow, W_dec)
        decoding.entry_dots(target, W_dec, indices, crow)
        decoding._mse_forward(values, W_dec, target, target[0], indices, crow, k)
        rows.row_sums(indices, row_ids, values, target, 512, dtype)

        two = (values.view(2, k), indices.view(2, k))
        hierarchical._forward(*two, W_dec, target, target[0], [8, 16, 32, 64], [0.25] * 4)

    step = Step(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, count=3, unit_norm=True, rule="adam")
    for depth, dtype in ((768, torch.float32), (2304, torch.float32), (4096, torch.bfloat16)):
        gradient = RowGradient(512)
        gradient.add(indices, row_ids, values, torch.randn(2, depth).to(torch.bfloat16))
        weights, names = torch.randn(512, depth), ("exp_avg", "exp_avg_sq")
        state = {name: torch.zeros(512, depth, dtype=dtype) for name in names}
        state["shadow"] = weights.bfloat16()
        rows.update(weights, gradient, None, state, step, touched_only=depth > 4000)


def table(capability: int) -> list[dict]:
    """Return one row per compiled kernel."""
    rows = []
    for label, constants, kernel in compiled(capability, every_kernel).values():
        shown = " ".join(f"{name}={value}" for name, value in constants.items())
        row = {"kernel": label, "constants": shown, "warps": kernel.metadata.num_warps}
        row |= resources(kernel.asm["ptx"]) | {"shared_bytes": kernel.metadata.shared}
        rows.append(row)
    return rows


def main() -> None:
    """Read the command line, compile, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--capability", type=int, default=90, help="90 is Hopper, 80 Ampere")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    import torch
    import triton

    rows = table(args.capability)
    facts = {"capability": args.capability, "triton": triton.__version__}
    facts |= {"torch": torch.__version__}
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"compiler": facts, "kernels": rows}, indent=1) + "\n")
    print(json.dumps(facts))
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
