"""Loss recovered: what a causal language model keeps with a TopK autoencoder in its middle.

`TopK` at two widths and four k on the activations of the small GPT-2 of SPARSECODE_DATA's
``../models/tiny-gpt2`` after its third block, all eight in one pass (`sae.sweep`); then
`sae.loss_recovered` on texts that the autoencoders have not seen. Columns are cross-entropies in
nats per token with the activations as they are, reconstructed, set to zero and to their mean; the
KL divergence from the first to the second; and the shares of the two ablations' losses that the
reconstruction recovers.

A status says whether a larger k at the same width recovers more of the loss and has less KL. A
call that was killed goes on where it was, in a folder of the system's place for temporary files,
which is removed at the end. In all it takes half an hour of one core.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sae
from sparsecode import io

HOOKPOINT = "h.2"
SHOWN = ("ce_original", "ce_reconstruction", "ce_zero", "ce_mean", "kl")
SHARES = ("loss_recovered", "loss_recovered_mean")


@dataclass(frozen=True)
class Size:
    """What is trained on how much text."""

    n_latents: tuple[int, ...] = (1024, 4096)
    k: tuple[int, ...] = (8, 16, 32, 64)
    n_steps: int = 1500
    batch_size: int = 1024
    characters: int = 10_000_000
    characters_read: int = 40_000


SMOKE = Size((64, 256), (2, 16), 30, 256, 60_000, 4_000)


def paragraphs(data: Path, size: Size) -> tuple[list[str], list[str]]:
    """Return texts to train on and others, a twentieth, to measure on."""
    lines = (data / "wikitext_train.txt").read_text().split("\n")
    texts = [line.strip() for line in lines if len(line) > 200]
    train = [text for i, text in enumerate(texts) if i % 20]
    return _first(train, size.characters), _first(texts[::20], size.characters_read)


def _first(texts: list[str], characters: int) -> list[str]:
    """Return as many texts as it takes to have so many characters."""
    n_texts = total = 0
    while n_texts < len(texts) and total < characters:
        total += len(texts[n_texts])
        n_texts += 1
    return texts[:n_texts]


def measured(data: Path, size: Size, folder: Path) -> list[dict[str, Any]]:
    """Return a row per autoencoder; what `folder` holds of an earlier call is not done again."""
    lm = data.parent / "models" / "tiny-gpt2"
    train, unseen = paragraphs(data, size)
    cache = sae.cache.write(
        lm, train, [HOOKPOINT], folder / "activations", context_length=128, progress=False
    )
    config = sae.TrainConfig(batch_size=size.batch_size, n_steps=size.n_steps, progress=False)
    grid = sae.Grid(n_latents=size.n_latents, k=size.k)
    runs = sae.sweep(cache, grid, config, out_dir=folder / "runs", resume=True, page=False).runs
    rows = []
    for run in runs:
        file = folder / "runs" / run["name"] / "loss.json"
        if not file.exists():
            model = sae.load(folder / "runs" / run["name"])
            found = sae.loss_recovered(
                lm, unseen, HOOKPOINT, model, context_length=128, mean=cache.mean
            )
            io.write_json(file, found)
        found = io.read_json(file)
        row = {key: run[key] for key in ("n_latents", "k", "seed", "fvu", "dead_fraction")}
        row |= {"tokens": found["n_tokens"], "l0": found["l0"]}
        row |= {name: found[name] for name in SHOWN}
        row |= {name: round(found[name], 6) for name in SHARES}  # the table shows three digits
        rows.append(row)
        print(rows[-1], flush=True)
    return rows


def judged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add a status: is the autoencoder better than the one with the next smaller k?"""
    last: dict[int, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["k"]):
        holds = row["ce_original"] < row["ce_reconstruction"] < row["ce_zero"]
        smaller = last.get(row["n_latents"])
        if smaller is not None:
            holds &= all(row[name] > smaller[name] for name in SHARES)
            holds &= row["kl"] < smaller["kl"]
        row["status"] = "ok" if holds else "off"
        last[row["n_latents"]] = row
    return rows


def run(*, device: str, smoke: bool) -> list[dict[str, Any]]:
    """Return a row per autoencoder."""
    data = Path(os.environ.get("SPARSECODE_DATA", "/nowhere"))
    if not (data / "wikitext_train.txt").exists():
        return [{"status": "skipped: SPARSECODE_DATA does not name a folder with the texts"}]
    if smoke:
        with tempfile.TemporaryDirectory() as folder:
            return judged(measured(data, SMOKE, Path(folder)))
    folder = Path(tempfile.gettempdir()) / "sparsecode-loss-recovered"
    rows = judged(measured(data, Size(), folder))
    shutil.rmtree(folder)
    return rows
