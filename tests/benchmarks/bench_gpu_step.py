"""A whole training step on a GPU, part by part: encode, decode and its gradients, update.

Ratios are to the encoder's product in bfloat16, which no exact step can avoid. Master weights are
float32; "dense" is plain PyTorch (bfloat16 autocast, ``topk``, scatter, dense products, fused
Adam). The firing of latents is as uneven as after training: log-normal, a fifth dead. On the CPU
only ``--smoke`` runs, to show that the code does.
"""

from collections.abc import Callable

import torch
from measure import interleave
from torch import Tensor

import sparsecode
from sparsecode.optim import RowAdam

SHAPES = {
    "S1": (8192, 2304, 65536, 64),
    "S2": (8192, 4096, 131072, 64),
    "S3": (16384, 768, 24576, 32),
}
SMOKE = {"smoke": (64, 16, 512, 4)}
BASELINE = "x @ W_enc"


class Problem:
    """A batch and two copies of the same weights, one with each optimizer."""

    def __init__(self, shape: tuple[int, int, int, int], device: str) -> None:
        n, d, f, self.k = shape
        self.device = device
        generator = torch.Generator().manual_seed(0)
        draw = lambda *size: torch.randn(*size, generator=generator)  # noqa: E731
        rows = torch.nn.functional.normalize(draw(f, d), dim=1)
        level = draw(f) - 8.0 * (torch.rand(f, generator=generator) < 0.2)
        start = {"enc": rows, "dec": rows.clone(), "bias": level}
        self.x = draw(n, d).to(device)
        self.ours, self.dense = (
            {name: torch.nn.Parameter(t.to(device, copy=True)) for name, t in start.items()}
            for _ in range(2)
        )
        groups = [
            {"params": [self.ours["enc"]], "latent_dim": 0},
            {"params": [self.ours["dec"]], "latent_dim": 0, "unit_norm": True},
            {"params": [self.ours["bias"]]},
        ]
        self.row_adam = RowAdam(groups, lr=1e-4)
        self.adam = torch.optim.Adam(self.dense.values(), lr=1e-4, fused=True)

    def encode(self) -> sparsecode.SparseCodes:
        """Return the codes of the batch, the product in bfloat16."""
        with torch.autocast(self.device, torch.bfloat16):
            W = self.ours["enc"].t()
            return sparsecode.encode_topk(self.x, W, self.ours["bias"], self.k)

    def step(self) -> Tensor:
        """Take our step; return the loss."""
        codes = self.encode().to(torch.float32)
        loss, _ = sparsecode.decode_mse(codes, self.ours["dec"], self.x)
        loss.backward()
        self.row_adam.step()
        self.row_adam.zero_grad()
        return loss.detach()

    def dense_step(self) -> Tensor:
        """Take the same step as plain PyTorch would; return the loss."""
        W = self.dense["dec"]
        with torch.autocast(self.device, torch.bfloat16):
            z = torch.nn.functional.linear(self.x, self.dense["enc"], self.dense["bias"])
            values, indices = z.relu().topk(self.k)
            code = torch.zeros_like(z).scatter(1, indices, values)
            recon = code @ W
        loss = (recon.float() - self.x).square().sum() / len(self.x)
        loss.backward()
        with torch.no_grad():
            W.grad -= (W.grad * W).sum(1, keepdim=True) * W
            self.adam.step()
            W /= torch.linalg.vector_norm(W, dim=1, keepdim=True)
        self.adam.zero_grad()
        return loss.detach()


def _case(name: str, shape: tuple[int, int, int, int], device: str, rounds: int) -> list[dict]:
    p = Problem(shape, device)
    first = [float(step()) for step in (p.step, p.dense_step)]
    case = f"{name} N={shape[0]} D={shape[1]} F={shape[2]} k={p.k}"
    if abs(first[0] / first[1] - 1) > 2e-2:
        return [{"case": case, "name": "all", "status": f"WRONG: losses {first}"}]
    half = (p.x.bfloat16(), p.ours["enc"].detach().bfloat16().t())
    codes = p.encode().to(torch.float32).detach()
    work: dict[str, Callable[[], object]] = {
        BASELINE: lambda: torch.mm(*half),
        "encode_topk": lambda: p.encode().detach(),
        "decode_mse": lambda: sparsecode.decode_mse(codes, p.ours["dec"].detach(), p.x),
        "sparsecode step": p.step,
        "dense step": p.dense_step,
    }
    timings = interleave(work, baseline=BASELINE, device=device, rounds=rounds, seconds=60.0)
    return [{"case": case, "name": m, **t.row(), "status": "ok"} for m, t in timings.items()]


def run(*, device: str, smoke: bool) -> list[dict]:
    """Return one row per part of the step and shape."""
    if device == "cpu" and not smoke:
        return [{"name": "all", "status": "the step on the CPU is compared by train_step"}]
    shapes = SMOKE if smoke else SHAPES
    return [row for n, s in shapes.items() for row in _case(n, s, device, 3 if smoke else 20)]
