"""Decoding with its squared error, forward and backward, at several budgets too.

Ratios are to ``decode_mse``. "dense" scatters the codes into (N, F) and multiplies;
"embedding_bag" is PyTorch's own sparse path. Gradients go to values, dictionary and bias. The last
two rows take the error at four budgets at once, and one budget after the other.
"""

from collections.abc import Callable

import torch
from measure import interleave
from torch import Tensor
from torch.nn import functional

import sparsecode

SHAPES = ((2048, 768, 16384, 32),)
GPU_SHAPES = ((8192, 2304, 65536, 64), (16384, 768, 24576, 32))
SMOKE = (128, 32, 1024, 8)
BASELINE = "sparsecode"


def contenders(codes: sparsecode.SparseCodes, W: Tensor, y: Tensor, b: Tensor) -> dict:
    """Return name -> function that makes the loss."""
    k, n = codes.values.shape[-1], len(y)
    budgets = [k // 8, k // 4, k // 2, k]
    values, indices = codes.values, codes.indices

    def dense() -> Tensor:
        return ((codes.to_dense() @ W + b - y) ** 2).sum() / n

    def embedding_bag() -> Tensor:
        recon = functional.embedding_bag(indices, W, mode="sum", per_sample_weights=values)
        return ((recon + b - y) ** 2).sum() / n

    def one_by_one() -> Tensor:
        parts = [
            sparsecode.SparseCodes(values[:, :m], indices[:, :m], codes.width) for m in budgets
        ]
        losses = [sparsecode.decode_mse(part, W, y, bias=b)[0] for part in parts]
        return torch.stack(losses).mean()

    return {
        BASELINE: lambda: sparsecode.decode_mse(codes, W, y, bias=b)[0],
        "dense": dense,
        "embedding_bag": embedding_bag,
        "4 budgets at once": lambda: sparsecode.hierarchical_mse(
            codes, W, y, budgets=budgets, bias=b
        )[0],
        "4 budgets one by one": one_by_one,
    }


def objection(made: dict, leaves: list[Tensor]) -> str | None:
    """Return which contender's loss or gradient is not that of the dense product, or None."""

    def results(name: str) -> list[Tensor]:
        loss = made[name]()
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    for name, expected in (
        (BASELINE, "dense"),
        ("embedding_bag", "dense"),
        ("4 budgets at once", "4 budgets one by one"),
    ):
        for ours, theirs in zip(results(name), results(expected), strict=True):
            if float((ours - theirs).norm()) > 1e-3 * float(theirs.norm()):
                return f"{name} differs from {expected}"
    return None


def _case(shape: tuple[int, int, int, int], device: str, rounds: int) -> list[dict]:
    n, d, f, k = shape
    generator = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=generator).to(device)  # noqa: E731
    codes = sparsecode.SparseCodes(
        draw(n, k).abs().requires_grad_(),
        torch.randint(0, f, (n, k), generator=generator).to(device),
        f,
    )
    W, y, b = draw(f, d).requires_grad_(), draw(n, d), draw(d).requires_grad_()
    leaves = [codes.values, W, b]
    made = contenders(codes, W, y, b)
    case = f"N={n} D={d} F={f} k={k}"
    wrong = objection(made, leaves)
    if wrong:
        return [{"case": case, "name": "all", "status": f"WRONG: {wrong}"}]
    work: dict[str, Callable[[], object]] = {
        name: lambda loss=loss: torch.autograd.grad(loss(), leaves) for name, loss in made.items()
    }
    timings = interleave(work, baseline=BASELINE, device=device, rounds=rounds, seconds=40.0)
    return [{"case": case, "name": m, **t.row(), "status": "ok"} for m, t in timings.items()]


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return one row per contender and shape."""
    shapes = (SMOKE,) if smoke else GPU_SHAPES if device == "cuda" else SHAPES
    return [row for shape in shapes for row in _case(shape, device, rounds=3 if smoke else 6)]
