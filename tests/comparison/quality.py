"""Held-out error of our defaults against sparsify's SparseCoder at its best learning rate.

Both train on the same rows in the same batch order, with the same width, k and number of steps.
Ours is ``sae.Trainer`` with an untouched ``TrainConfig`` apart from batch size, number of steps and
seed. The peer is trained as its own trainer does it (decoder bias from the first batch's mean,
unit-norm rows, gradient projection, Adam), once for every learning rate and schedule asked for,
and its best run counts. One function that knows neither library measures both, in float64, on rows
that neither has seen: those that ``sae.Trainer`` holds out.

    python tests/comparison/quality.py demo/activations --latents 4096 -k 32 --steps 1000

needs ``pip install 'sparsecode[compare]'``.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sae

SCHEDULES = ("constant", "linear")


def customary_lr(n_latents: int) -> float:
    """Return the learning rate that sparsify and dictionary_learning choose by themselves."""
    return 2e-4 / (n_latents / 2**14) ** 0.5


def default_lrs(n_latents: int) -> list[float]:
    """Return the five learning rates of the comparison."""
    return [customary_lr(n_latents), 3e-4, 1e-3, 3e-3, 1e-2]


def heldout_fvu(reconstruct: Callable[[Tensor], Tensor], rows: np.ndarray) -> float:
    """Return the fraction of variance unexplained, sums in float64, mean of these rows.

    ``sum ||x - reconstruct(x)||^2 / sum ||x - mean||^2`` over all rows; `mean` per dimension.
    """
    mean = rows.astype(np.float64).mean(axis=0)
    error = variance = 0.0
    for start in range(0, len(rows), 2048):
        x = rows[start : start + 2048].astype(np.float32)
        with torch.no_grad():
            y = reconstruct(torch.from_numpy(x)).double().numpy()
        error += float(np.square(x.astype(np.float64) - y).sum())
        variance += float(np.square(x.astype(np.float64) - mean).sum())
    return error / variance


def _lr_factor(schedule: str, n_steps: int) -> Callable[[int], float]:
    """Return the peer's schedule, its 1,000 warm-up steps cut to a twentieth of a short run."""
    if schedule == "constant":
        return lambda step: 1.0
    warmup = min(1000, max(1, n_steps // 20))
    return lambda step: min((step + 1) / warmup, max(0.0, (n_steps - step) / (n_steps - warmup)))


def train_sparsify(
    batches: Iterator[Tensor],
    *,
    n_latents: int,
    k: int,
    n_steps: int,
    lr: float,
    schedule: str = "constant",
    seed: int = 0,
) -> Callable[[Tensor], Tensor]:
    """Train sparsify's SparseCoder the way ``sparsify.Trainer`` does; return its reconstruction."""
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(seed)
    coder = None
    for _ in range(n_steps):
        x = next(batches)
        if coder is None:
            coder = SparseCoder(x.shape[1], SparseCoderConfig(num_latents=n_latents, k=k))
            coder.b_dec.data = x.mean(0)
            optimizer = torch.optim.Adam(coder.parameters(), lr=lr)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _lr_factor(schedule, n_steps))
        coder.set_decoder_norm_to_unit_norm()
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    def reconstruct(x: Tensor) -> Tensor:
        values, indices, _ = coder.encode(x)
        return coder.decode(values, indices)

    return reconstruct


def _print_row(row: dict) -> None:
    setting = f"F={row['n_latents']} k={row['k']} steps={row['n_steps']}"
    lr = f"lr={row['lr']:.2e} {row['schedule']}" if row["lr"] else "defaults"
    print(f"{row['model']:>9} {setting} {lr:<20} heldout FVU {row['fvu']:.4f}", flush=True)


def compare(
    data: Any,
    *,
    n_latents: int,
    k: int,
    n_steps: int,
    batch_size: int = 2048,
    lrs: list[float] | None = None,
    schedules: tuple[str, ...] = SCHEDULES,
    seed: int = 0,
    report: Callable[[dict], None] = _print_row,
) -> list[dict]:
    """Train ours, then the peer over the sweep; return one row per run, `report`-ed as it ends.

    `data` is whatever ``sae.Trainer`` takes; the peer reads the trainer's own rows in its order.
    """
    torch.manual_seed(seed)
    n_features = sae.cache.as_source(data).n_features
    model = sae.TopK(n_features=n_features, n_latents=n_latents, k=k)
    config = sae.TrainConfig(batch_size=batch_size, n_steps=n_steps, seed=seed)
    trainer = sae.Trainer(model, data, config)
    heldout = trainer.heldout.rows(0, trainer.heldout.n_rows).numpy()
    setting = {"n_latents": n_latents, "k": k, "n_steps": n_steps}
    results = []

    def record(name: str, lr: float | None, schedule: str | None, train: Callable) -> None:
        start = time.perf_counter()
        reconstruct = train()
        row = {"model": name, **setting, "batch_size": batch_size, "seed": seed}
        row |= {"lr": lr, "schedule": schedule, "fvu": heldout_fvu(reconstruct, heldout)}
        results.append(row | {"seconds": round(time.perf_counter() - start, 1)})
        report(results[-1])

    def train_peer(lr: float, schedule: str) -> Callable[[Tensor], Tensor]:
        batches = trainer.rows.batches(batch_size, seed=seed)
        return train_sparsify(batches, **setting, lr=lr, schedule=schedule, seed=seed)

    record("ours", None, None, lambda: trainer.fit().model)
    for schedule in schedules:
        for lr in default_lrs(n_latents) if lrs is None else lrs:
            record("sparsify", lr, schedule, lambda lr=lr, s=schedule: train_peer(lr, s))
    return results


def main() -> None:
    """Read the command line, run the comparison, print it and keep it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="activation cache, or .npy file of rows")
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("-k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--lrs", type=float, nargs="*", help="default: the customary one, 3e-4...")
    parser.add_argument("--schedules", choices=SCHEDULES, nargs="+", default=list(SCHEDULES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="append every finished run as one JSON line")
    args = parser.parse_args()

    def report(row: dict) -> None:
        _print_row(row)
        if args.json:
            with args.json.open("a") as file:
                file.write(json.dumps({"data": args.data.name, **row}) + "\n")

    results = compare(
        args.data, n_latents=args.latents, k=args.k, n_steps=args.steps, lrs=args.lrs,
        batch_size=args.batch_size, schedules=tuple(args.schedules), seed=args.seed, report=report,
    )  # fmt: skip
    ours, *peers = [row["fvu"] for row in results]
    if peers:
        print(f"ours / best of {len(peers)} sparsify runs: {ours / min(peers):.4f}")


if __name__ == "__main__":
    main()
