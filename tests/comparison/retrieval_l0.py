"""The l0 mask against plain FLOPs regularization, from the texts of Vaswani to figures.

A small masked language model (two layers of width 64 on the collection's own words) is trained as
the document side of `retrieval.InferenceFreeEncoder`: first without much regularization, on runs of
words as queries of the documents that they are from; then, from there and for each weight of the
regularizer, on all documents ("plain") or on those with more active tokens than a threshold (the l0
mask). nDCG@10 with the queries and judgments of the collection stands against the expected
products of a query and a document. At equal nDCG the products are read off the curve of each kind,
linearly between its points, in the logarithm of the products.

    SPARSECODE_DATA=... python tests/comparison/retrieval_l0.py --json results.json

Needs the extra ``compare``. The collection is cut to its judged documents and a thousand others.
Found: fewer products at equal nDCG under strong weights on two seeds of three only, more elsewhere.
What is finished is kept in the JSON file and is not done again.
"""

import argparse
import copy
import itertools
import json
import math
import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retrieval import (
    ExactIndex,
    InferenceFreeEncoder,
    LexicalTraining,
    beir,
    evaluate,
    inverse_document_frequencies,
)
from retrieval.evaluation import Collection, search_cost
from sparsecode.io import read_json, write_json

N_OTHERS, MIN_DF, MAX_LENGTH = 1000, 4, 64
N_LAYERS, WIDTH = 2, 64
BASE_STEPS, STEPS, BATCH, RATE = 300, 150, 16, 2e-3
THRESHOLD = 20  # active tokens that a document has for nothing
WEIGHTS = (5.0, 3.0, 1.0)
MEASURE = "nDCG@10"
Point = tuple[float, float]  # nDCG@10 and expected products


def reduced(collection: Collection, n_others: int) -> Collection:
    """Return the judged documents of a collection and evenly spaced others."""
    judged = {document for found in collection.qrels.values() for document in found}
    rest = [one for one in collection.document_ids if one not in judged]
    kept = judged | set(rest[:: max(1, len(rest) // n_others)][:n_others])
    pairs = zip(collection.document_ids, collection.documents, strict=True)
    ids, texts = zip(*[(one, text) for one, text in pairs if one in kept], strict=True)
    sides = (collection.query_ids, collection.queries, collection.qrels)
    return Collection(list(ids), list(texts), *sides)


def word_tokenizer(texts: list[str], min_df: int) -> Any:
    """Return a tokenizer of whole lower-case words that are in at least `min_df` texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.BertPreTokenizer()
    counts: dict[str, int] = {}
    for text in texts:
        for word in {word for word, _ in split.pre_tokenize_str(text.lower())}:
            counts[word] = counts.get(word, 0) + 1
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted(word for word, count in counts.items() if count >= min_df)
    vocabulary = {token: i for i, token in enumerate([*special, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.Lowercase(), split
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def language_model(n_tokens: int, seed: int) -> Any:
    """Return an untrained BERT with a masked-LM head."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=n_tokens, hidden_size=WIDTH, num_hidden_layers=N_LAYERS, num_attention_heads=2,
        intermediate_size=2 * WIDTH, max_position_embeddings=MAX_LENGTH + 2,
    )  # fmt: skip
    return BertForMaskedLM(config)


def cropped(texts: list[str], n_crops: int, seed: int) -> tuple[list[str], list[str]]:
    """Return runs of four to ten words, and the documents that they are from."""
    rng = np.random.default_rng(seed)
    queries, documents = [], []
    for text in texts:
        words = text.split()
        for _ in range(n_crops if len(words) >= 4 else 0):
            length = min(len(words), int(rng.integers(4, 11)))
            start = int(rng.integers(0, len(words) - length + 1))
            queries.append(" ".join(words[start : start + length]))
            documents.append(text)
    return queries, documents


def judged(encoder: InferenceFreeEncoder, collection: Collection) -> dict[str, float]:
    """Return nDCG@10, the cost of a search, and how much the lengths of documents vary."""
    documents = encoder.encode_documents(collection.documents)
    queries = encoder.encode_queries(collection.queries)
    index = ExactIndex(documents.shape[1]).add(documents, ids=collection.document_ids)
    run = index.search(queries, 50).to_run(collection.query_ids)
    cost, lengths = search_cost(queries, documents), documents.getnnz(axis=1)
    return {
        "ndcg": evaluate(run, collection.qrels, [MEASURE])[MEASURE],
        "flops": cost["flops"],
        "active": cost["document_active"],
        "r_sub": cost["r_sub"],
        "variation of lengths": float(lengths.std() / max(lengths.mean(), 1e-12)),
    }


class Experiment:
    """A collection with its tokenizer, and the models that are trained on it.

    Parameters
    ----------
    collection : Collection
    base_steps, steps : int
        Of the training before and with the regularizers.
    """

    def __init__(self, collection: Collection, *, base_steps: int, steps: int) -> None:
        self.collection, self._steps, self._base_steps = collection, steps, base_steps
        self.tokenizer = word_tokenizer(collection.documents, MIN_DF)
        self.idf = inverse_document_frequencies(collection.documents, self.tokenizer)

    def base(self, seed: int) -> InferenceFreeEncoder:
        """Return an encoder that ranks, and was asked for little sparsity."""
        encoder = self._encoder(language_model(len(self.tokenizer), seed))
        texts = cropped(self.collection.documents, 3, seed)
        return encoder.fit(*texts, training=self._training(self._base_steps, 1e-3, None, seed))

    def tuned(
        self, base: InferenceFreeEncoder, weight: float, threshold: int | None, seed: int
    ) -> InferenceFreeEncoder:
        """Return the encoder trained on, with a weight of the regularizer and a threshold."""
        encoder = self._encoder(copy.deepcopy(base.documents.mlm))
        texts = cropped(self.collection.documents, 3, seed + 100)
        return encoder.fit(*texts, training=self._training(self._steps, weight, threshold, seed))

    def _encoder(self, model: Any) -> InferenceFreeEncoder:
        options = {"idf": self.idf, "max_length": MAX_LENGTH, "batch_size": 64, "device": "cpu"}
        return InferenceFreeEncoder(model, self.tokenizer, **options)

    def _training(
        self, steps: int, weight: float, threshold: int | None, seed: int
    ) -> LexicalTraining:
        return LexicalTraining(
            max_steps=steps, batch_size=BATCH, lr=RATE, temperature=2.0, document_weight=weight,
            threshold=threshold, random_state=seed,
        )  # fmt: skip


def products_at(curve: list[Point], ndcg: float) -> float | None:
    """Return the products of a curve at some nDCG: the fewest of all that reach it.

    Linear in the logarithm of the products between neighbors; None where the curve ends below.
    """
    points = sorted((math.log(flops), value) for value, flops in curve)
    if points[0][1] >= ndcg:
        return math.exp(points[0][0])
    for (x, low), (z, high) in itertools.pairwise(points):
        if low < ndcg <= high:
            return math.exp(x + (z - x) * (ndcg - low) / (high - low))
    return None


def ratios(plain: list[Point], masked: list[Point]) -> list[tuple[float, float]]:
    """Return, for each masked point that plain ones reach, its nDCG and share of their products."""
    found = [(ndcg, flops, products_at(plain, ndcg)) for ndcg, flops in masked]
    return [(ndcg, flops / theirs) for ndcg, flops, theirs in found if theirs is not None]


def table(results: dict[str, Any], n_seeds: int) -> str:
    """Return all points, and the ratios of products at equal nDCG."""
    lines = []
    for seed in range(n_seeds):
        lines.append(f"seed {seed}: before {_figures(results[f'base {seed}'])}")
        curves: dict[int | None, list[Point]] = {None: [], THRESHOLD: []}
        for threshold, curve in curves.items():
            for weight in WEIGHTS:
                row = results[f"{threshold} {weight} {seed}"]
                curve.append((row["ndcg"], row["flops"]))
                lines.append(f"  threshold {threshold!s:4} weight {weight:4} {_figures(row)}")
        found = ratios(curves[None], curves[THRESHOLD])
        listed = ", ".join(f"{ratio:.2f} at nDCG@10 {ndcg:.3f}" for ndcg, ratio in found)
        lines.append(f"  products with the mask over those without: {listed}")
    return "\n".join(lines)


def _figures(row: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in row.items())


def record(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with what a reader must know of the machine, as the benchmarks do."""
    measure = Path(__file__).resolve().parents[1] / "benchmarks" / "measure.py"
    facts = runpy.run_path(str(measure))["machine"]("cpu")
    file.write_text(json.dumps({"machine": facts, "results": rows}, indent=1) + "\n")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, default=Path("retrieval_l0.json"))
    parser.add_argument("--record", type=Path, help="file of figures, to be kept")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(os.environ.get("SPARSECODE_DATA", "/nowhere")) / "ir" / "vaswani"
    if not folder.is_dir():
        parser.error("SPARSECODE_DATA must name a folder with `ir/vaswani`.")
    collection = reduced(beir.read(folder), N_OTHERS)
    experiment = Experiment(collection, base_steps=BASE_STEPS, steps=STEPS)
    results = read_json(arguments.json) if arguments.json.exists() else {}
    for seed in range(arguments.seeds):
        keys = {f"{t} {w} {seed}": (w, t) for w in WEIGHTS for t in (None, THRESHOLD)}
        if f"base {seed}" in results and not keys.keys() - results.keys():
            continue
        base = experiment.base(seed)
        results[f"base {seed}"] = judged(base, collection)
        print(f"base {seed}", results[f"base {seed}"], flush=True)
        for key, (weight, threshold) in keys.items():
            if key not in results:
                tuned = experiment.tuned(base, weight, threshold, seed)
                results[key] = judged(tuned, collection)
                write_json(arguments.json, results)
                print(key, _figures(results[key]), flush=True)
    print(table(results, arguments.seeds))
    if arguments.record is not None:
        record(arguments.record, [{"case": key, **found} for key, found in results.items()])


if __name__ == "__main__":
    main()
