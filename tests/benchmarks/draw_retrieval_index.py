"""Draw the time of a query against the number of documents, from the results of the benchmark.

python tests/benchmarks/draw_retrieval_index.py [FILE.svg]
"""

import json
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results" / "cpu"
STYLES = {
    "ExactIndex float32": ("ExactIndex", "o-", "C0"),
    "ExactIndex, 40 at once": ("ExactIndex, 40 queries at once", "o:", "C0"),
    "scipy q @ D.T, top-k": ("scipy q @ D.T and top-k", "s-", "C1"),
    "scipy, no top-k": ("scipy q @ D.T alone", "s--", "C1"),
    "scipy, 40 at once": ("scipy, 40 queries at once", "s:", "C1"),
    "qdrant-edge, bare": ("qdrant-edge", "^-", "C2"),
}


def draw(lines: list[dict], file: Path) -> None:
    """Write the picture; its format is that of the file's name.

    Parameters
    ----------
    lines : list of dict
        Of ``bench_retrieval_index.py``.
    file : Path
    """
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "sparsecode"  # the same bytes each time
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for name, (label, style, color) in STYLES.items():
        own = [line for line in lines if line["name"] == name and line["status"] == "ok"]
        if own:
            n = [int(line["case"].removeprefix("N=")) for line in own]
            axes.loglog(n, [line["ms_per_query"] for line in own], style, color=color, label=label)
    axes.set(xlabel="documents, 105 entries each", ylabel="milliseconds per query, one thread")
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "retrieval_index.svg"
    draw(json.loads((RESULTS / "retrieval_index.json").read_text())["results"], target)
    print(f"wrote {target}")
