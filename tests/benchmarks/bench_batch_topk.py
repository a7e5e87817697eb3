"""Selection over the whole batch: ``sparsecode.batch_topk`` against ``torch.topk`` of all entries.

Ratios are to ``torch.topk`` on the flattened batch, as SAELens and dictionary_learning select.
"""

from collections.abc import Callable

import torch
from measure import interleave

import sparsecode

SHAPES = ((1024, 4096, 32), (1024, 16384, 32))
GPU_SHAPES = ((8192, 65536, 64), (16384, 24576, 32))
SMOKE = (64, 1024, 8)
BASELINE = "torch.topk of all"


def _case(shape: tuple[int, int, int], device: str, rounds: int) -> list[dict]:
    n, f, k = shape
    x = torch.randn(n, f, generator=torch.Generator().manual_seed(0)).relu().to(device)
    case = f"N={n} F={f} k={k}"
    codes = sparsecode.batch_topk(x, k)
    expected = x.flatten().topk(n * k).values
    if not torch.equal(codes.values.sort(descending=True).values, expected):
        return [{"case": case, "name": "sparsecode", "status": "WRONG: other values"}]
    work: dict[str, Callable[[], object]] = {
        BASELINE: lambda: x.flatten().topk(n * k),
        "sparsecode": lambda: sparsecode.batch_topk(x, k),
        "one read": lambda: x.amax(1),
    }
    timings = interleave(
        work, baseline=BASELINE, device=device, rounds=rounds, seconds=20.0, warmup=1
    )
    return [{"case": case, "name": m, **t.row(), "status": "ok"} for m, t in timings.items()]


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return one row per contender and shape."""
    shapes = (SMOKE,) if smoke else GPU_SHAPES if device == "cuda" else SHAPES
    return [row for shape in shapes for row in _case(shape, device, rounds=3 if smoke else 6)]
