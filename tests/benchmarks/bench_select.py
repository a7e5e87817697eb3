"""Exact row-wise selection: ``sparsecode.topk`` against ``torch.topk`` on stored pre-activations.

2,048 rows of float32, widths 4,096 to 65,536, k from 16 to 128. "one read" is a row maximum, the
least that any selection must do. Ratios are to ``torch.topk``: below 1 is faster.
"""

from collections.abc import Callable

import torch
from measure import interleave
from torch import Tensor

import sparsecode

ROWS = 2048
WIDTHS = (4096, 16384, 65536)
KS = (16, 32, 64, 128)
BASELINE = "torch.topk"


def objection(x: Tensor, k: int) -> str | None:
    """Return why our selection is wrong: values, positions, order and ties; None if it is right."""
    codes = sparsecode.topk(x, k)
    expected = x.topk(k).values
    if not torch.equal(codes.values, expected):
        return "values differ from torch.topk"
    if not torch.equal(x.gather(1, codes.indices), codes.values):
        return "indices do not point at the values"
    tied = x[:64].round(decimals=1)
    order = torch.sort(tied, dim=1, descending=True, stable=True).indices[:, :k]
    if not torch.equal(sparsecode.topk(tied, k).indices, order):
        return "ties do not go to the lower id"
    return None


def _case(x: Tensor, k: int, device: str, rounds: int, seconds: float) -> list[dict]:
    case = f"N={x.shape[0]} F={x.shape[1]} k={k}"
    work: dict[str, Callable[[], object]] = {
        BASELINE: lambda: torch.topk(x, k),
        "sparsecode": lambda: sparsecode.topk(x, k),
        "one read": lambda: x.amax(1),
    }
    wrong = objection(x, k)
    if wrong:
        del work["sparsecode"]
    timings = interleave(
        work, baseline=BASELINE, device=device, rounds=rounds, seconds=seconds, warmup=1
    )
    rows = [{"case": case, "name": n, **t.row(), "status": "ok"} for n, t in timings.items()]
    if wrong:
        rows.append({"case": case, "name": "sparsecode", "status": f"WRONG: {wrong}"})
    return rows


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return three rows per width and k."""
    rows = []
    for width in WIDTHS[:1] if smoke else WIDTHS:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(256 if smoke else ROWS, width, generator=generator).to(device)
        for k in KS[:2] if smoke else KS:
            rows += _case(x, k, device, rounds=3 if smoke else 10, seconds=8.0)
    return rows
