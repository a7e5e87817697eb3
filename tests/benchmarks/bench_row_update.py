"""One optimizer step on a dictionary from sparse lists: ``RowAdam`` against dense gradients.

Ratios are to building the dense gradient, projecting it, ``torch.optim.Adam(fused=True)`` and
scaling the rows. Signum and averages in bfloat16 take the eager definition on the CPU: they save
memory there, not time.
"""

from collections.abc import Callable

import torch
from measure import interleave
from torch import Tensor

from sparsecode.ops._row_gradient import RowGradient, dense_rows
from sparsecode.optim import RowAdam

SHAPES = ((2048, 768, 16384, 32),)
GPU_SHAPES = ((8192, 2304, 65536, 64), (16384, 768, 24576, 32))
SMOKE = (128, 32, 1024, 8)
BASELINE = "dense gradient, Adam"
OPTIONS: dict[str, dict] = {
    "sparsecode": {},
    "sparsecode touched_only": {"touched_only": True},
    "sparsecode signum": {"rule": "signum"},
    "sparsecode bfloat16 averages": {"state_dtype": torch.bfloat16},
}


def dense_step(start: Tensor, entries: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple:
    """Return the weights and the function that takes a step on them."""
    W = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([W], lr=1e-3, fused=True)

    @torch.no_grad()
    def step() -> None:
        gradient = dense_rows(*entries, len(W))
        gradient -= (gradient * W).sum(1, keepdim=True) * W
        W.grad = gradient
        optimizer.step()
        W.div_(torch.linalg.vector_norm(W, dim=1, keepdim=True))

    return W, step


def row_step(start: Tensor, entries: tuple, options: dict) -> tuple:
    """Return the weights and the function that takes a step on them."""
    W = torch.nn.Parameter(start.clone())
    optimizer = RowAdam([{"params": [W], "latent_dim": 0, "unit_norm": True}], lr=1e-3, **options)
    collector: RowGradient = W.row_gradient

    def step() -> None:
        collector.add(*entries)
        optimizer.step()
        optimizer.zero_grad()

    return W, step


def _case(shape: tuple[int, int, int, int], device: str, rounds: int) -> list[dict]:
    n, d, f, k = shape
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
    start = torch.nn.functional.normalize(draw(f, d), dim=1).to(device)
    rows = torch.arange(n).repeat_interleave(k)
    latents = torch.randint(0, f, (n * k,), generator=generator)
    entries = tuple(t.to(device) for t in (latents, rows, draw(n * k), draw(n, d)))
    W, step = dense_step(start, entries)
    work: dict[str, Callable[[], object]] = {BASELINE: step}
    case = f"N={n} D={d} F={f} k={k}"
    for name, options in OPTIONS.items():
        V, work[name] = row_step(start, entries, options)
        if not options:
            for take in (step, work[name], step, work[name]):
                take()
            if float((W - V).detach().abs().max()) > 1e-5:
                return [{"case": case, "name": name, "status": "WRONG: other weights"}]
    timings = interleave(work, baseline=BASELINE, device=device, rounds=rounds, seconds=40.0)
    return [{"case": case, "name": m, **t.row(), "status": "ok"} for m, t in timings.items()]


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return one row per contender and shape."""
    shapes = (SMOKE,) if smoke else GPU_SHAPES if device == "cuda" else SHAPES
    return [row for shape in shapes for row in _case(shape, device, rounds=3 if smoke else 6)]
