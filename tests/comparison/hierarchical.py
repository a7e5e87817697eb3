"""One HierarchicalTopK for every k, against a TopK trained for each k alone.

For every source of rows and every seed: one `sae.HierarchicalTopK` with K = 128 and all budgets,
and one `sae.TopK` for each k in (8, 16, 32, 64, 128), all of the same width, on the same rows in
the same order, for the same number of steps, with the defaults of `sae.Trainer`. The held-out error
of each TopK at its k is compared with that of the hierarchical one read at that k, and with that of
the TopK trained at 128 read at that k.

    python tests/comparison/hierarchical.py demo/activations other.npy --json results.json

Sources are caches or ``.npy`` files. A finished part of the work is kept in the JSON file and is
not done again.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import sae
from sparsecode.io import read_json, write_json

BUDGETS = (8, 16, 32, 64, 128)
TOLERANCE = 1.03


def trained(architecture: str, data: str, k: int, seed: int, latents: int, steps: int, batch: int):
    """Return a model trained on `data` with the defaults of the trainer."""
    width = sae.cache.as_source(data).n_features
    make = sae.AUTOENCODERS[architecture]
    model = make(n_features=width, n_latents=latents, k=k, seed=seed)
    config = sae.TrainConfig(batch_size=batch, n_steps=steps, seed=seed, device="cpu")
    sae.Trainer(model, data, config).fit()
    return model


def curve(model: sae.AbstractAutoencoder, data: str, budgets: list[int]) -> dict[str, float]:
    """Return the held-out FVU at each number of latents."""
    return sae.evaluate(model, data, split="heldout", budgets=budgets, progress=False)["fvu_at_k"]


def run(data: str, seed: int, **sizes: int) -> dict[str, dict[str, float]]:
    """Return the curves of one source and seed: of the hierarchical model, and of each TopK."""
    budgets = list(BUDGETS)
    found = {
        "hierarchical": curve(
            trained("hierarchical_topk", data, max(BUDGETS), seed, **sizes), data, budgets
        )
    }
    for k in budgets:
        wanted = budgets if k == max(BUDGETS) else [k]
        found[f"topk {k}"] = curve(trained("topk", data, k, seed, **sizes), data, wanted)
    return found


def table(results: dict[str, Any]) -> str:
    """Return the figures as text, a line for each source and k; means over seeds."""
    lines = [
        f"{'source':28} {'k':>4} {'TopK':>8} {'one for all':>12} {'ratio':>7} {'128 read at k':>14}"
    ]
    for data in sorted({key.rsplit(" ", 1)[0] for key in results}):
        runs = [value for key, value in results.items() if key.rsplit(" ", 1)[0] == data]
        for k in map(str, BUDGETS):
            alone = statistics.mean(found[f"topk {k}"][k] for found in runs)
            shared = statistics.mean(found["hierarchical"][k] for found in runs)
            cut = statistics.mean(found[f"topk {max(BUDGETS)}"][k] for found in runs)
            worst = max(found["hierarchical"][k] / found[f"topk {k}"][k] for found in runs)
            status = "" if worst <= TOLERANCE else f"  worst seed {worst:.3f}"
            lines.append(
                f"{Path(data).name:28} {k:>4} {alone:8.4f} {shared:12.4f} {shared / alone:7.3f} "
                f"{cut:14.4f}{status}"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("data", nargs="+", help="caches or .npy files")
    parser.add_argument("--latents", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("hierarchical.json"))
    given = parser.parse_args()
    sizes = {"latents": given.latents, "steps": given.steps, "batch": given.batch}
    kept = read_json(given.json) if given.json.exists() else {"sizes": sizes, "results": {}}
    if kept["sizes"] != sizes:
        parser.error(f"{given.json} holds runs of other sizes, {kept['sizes']}; name another file.")
    results = kept["results"]
    for seed in range(given.seeds):
        for data in given.data:
            if f"{data} {seed}" not in results:
                results[f"{data} {seed}"] = run(data, seed, **sizes)
                write_json(given.json, kept)
                print(table(results), flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
