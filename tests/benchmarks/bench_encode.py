"""Encoding with selection: ``sparsecode.encode_topk`` against the product alone and plain PyTorch.

Ratios are to the product ``x @ W``, the least that any exact encoder must do. "memory=min" holds a
few per cent of the pre-activations. Forward only; "sparsify" where that package is installed.
"""

import importlib.util
from collections.abc import Callable

import torch
from measure import interleave
from torch import Tensor

import sparsecode

SHAPES = ((2048, 768, 16384, 32), (2048, 384, 4096, 32))
GPU_SHAPES = ((8192, 2304, 65536, 64), (16384, 768, 24576, 32))
SMOKE = (128, 32, 1024, 8)
BASELINE = "x @ W"


def objection(x: Tensor, W: Tensor, b: Tensor, k: int) -> str | None:
    """Return why our codes are wrong on whole numbers, where every product is exact; else None."""
    x, W, b = ((8 * part).round().clamp(-8, 8) for part in (x[:64], W, b))
    codes = sparsecode.encode_topk(x, W, b, k)
    z = x @ W + b
    order = z.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return None if torch.equal(codes.indices, order) else "ids differ from a stable sort"


def _case(shape: tuple[int, int, int, int], device: str, rounds: int) -> list[dict]:
    n, d, f, k = shape
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    draw = lambda *size: torch.randn(*size, generator=generator).to(device, dtype)  # noqa: E731
    x, W, b = draw(n, d), draw(f, d).t(), draw(f)
    out = torch.empty(n, f, dtype=dtype, device=device)
    work: dict[str, Callable[[], object]] = {
        BASELINE: lambda: torch.mm(x, W, out=out),
        "torch: linear, relu, topk": lambda: torch.addmm(b, x, W).relu().topk(k),
        "sparsecode": lambda: sparsecode.encode_topk(x, W, b, k),
        "sparsecode memory=min": lambda: sparsecode.encode_topk(x, W, b, k, memory="min"),
    }
    if importlib.util.find_spec("sparsify") is not None:
        from sparsify.fused_encoder import fused_encoder

        work["sparsify"] = lambda: fused_encoder(x, W.t(), b, k, "topk")
    wrong = objection(x.float(), W.float(), b.float(), k)
    if wrong:
        del work["sparsecode"], work["sparsecode memory=min"]
    with torch.no_grad():
        timings = interleave(work, baseline=BASELINE, device=device, rounds=rounds, seconds=30.0)
    case = f"N={n} D={d} F={f} k={k}"
    rows = [{"case": case, "name": m, **t.row(), "status": "ok"} for m, t in timings.items()]
    return [*rows, {"case": case, "name": "sparsecode", "status": wrong}] if wrong else rows


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return one row per contender and shape."""
    shapes = (SMOKE,) if smoke else GPU_SHAPES if device == "cuda" else SHAPES
    return [row for shape in shapes for row in _case(shape, device, rounds=3 if smoke else 8)]
