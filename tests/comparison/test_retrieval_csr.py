"""The comparison of sparse codes on few embeddings that ship with the package."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from retrieval import ContrastiveSparseEncoder, FlopsEncoder
from sparsecode.datasets import load_shakespeare


@pytest.fixture
def csr(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return retrieval_csr.py, imported as the command sees itself."""
    pytest.importorskip("ir_measures", reason="needs pip install 'sparsecode[compare]'")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import retrieval_csr

    yield retrieval_csr
    del sys.modules["retrieval_csr"]


class Halves:
    """Passages in two halves: the second half asks for the first, by latent semantic analysis."""

    def __init__(self) -> None:
        texts = load_shakespeare(max_characters=700)
        first, second = ([text[part] for text in texts] for part in (slice(350), slice(350, None)))
        words = TfidfVectorizer(stop_words="english", min_df=3, sublinear_tf=True)
        reduced = TruncatedSVD(64, random_state=0)
        found = normalize(reduced.fit_transform(words.fit_transform(first)))
        self.documents = found.astype(np.float32)
        asked = reduced.transform(words.transform(second[::5]))
        self.queries = normalize(asked).astype(np.float32)

    def ndcg(self, queries: Any, documents: Any) -> float:
        """Return nDCG with the one right document at its place among all."""
        scores = queries @ documents.T
        scores = scores.toarray() if scipy.sparse.issparse(scores) else scores
        own = scores[np.arange(len(scores)), np.arange(len(scores)) * 5]
        above = (scores > own[:, None]).sum(1) + ((scores == own[:, None]).sum(1) - 1) / 2
        return float((1 / np.log2(2 + above)).mean())


@pytest.fixture(scope="module")
def halves() -> Halves:
    return Halves()


def test_codes_beat_what_has_as_many_entries(csr: ModuleType, halves: Halves) -> None:
    options = {"max_steps": 150, "batch_size": 128, "device": "cpu"}
    curve = csr.curve(halves, ContrastiveSparseEncoder(256, k=16, **options).fit(halves.documents))
    assert curve["2"] < curve["8"] < curve["32"]
    fixed = csr.without_training(halves)
    for k in (4, 8, 16):
        assert curve[str(k)] > max(fixed[f"truncation {k}"], fixed[f"pca {k}"])
    assert curve["32"] > 0.8 * fixed["dense"]


def test_flops_cost_less_than_l1_at_equal_entries(csr: ModuleType, halves: Halves) -> None:
    costs = []
    for regularizer in ("flops", "l1"):
        encoder = FlopsEncoder(
            256, regularizer=regularizer, target_active=16.0, max_steps=150, batch_size=128,
            device="cpu",
        )  # fmt: skip
        costs.append(csr.cost(halves, encoder.fit(halves.documents)))
    ours, theirs = costs
    assert ours["active"] == pytest.approx(theirs["active"], rel=0.05)
    assert ours["flops"] < theirs["flops"]
    assert ours["r_sub"] < theirs["r_sub"]


def test_claims_are_judged_by_their_figures(csr: ModuleType) -> None:
    by_k = {str(k): 0.1 + k / 1000 for k in csr.BUDGETS}
    cost = {"ndcg": 0.3, "active": 32.0, "flops": 1.0, "r_sub": 1.5}
    results: dict[str, Any] = {}
    for name in csr.COLLECTIONS:
        results[name] = {"dense": 0.15} | {f"{w} 32": 0.1 for w in ("truncation", "pca")}
        results |= {f"{name} csr 0": by_k, f"{name} topk 0": dict.fromkeys(by_k, 0.12)}
        results |= {
            f"{name} dead with schedule 0": {"dead": 0.2},
            f"{name} dead without 0": {"dead": 0.5},
        }
        results |= {f"{name} flops 0": cost, f"{name} l1 0": cost | {"flops": 2.0, "r_sub": 3.0}}
    assert {row["status"] for row in csr.statements(results)} == {"ok"}
    results["vaswani dead without 0"] = {"dead": 0.39}
    results["vaswani l1 0"] = cost
    results["vaswani csr 0"] = by_k | {"32": 0.11}
    off = [(row["case"], row["status"]) for row in csr.statements(results)]
    assert off.count(("vaswani", "off")) == 5
    assert off.count(("cranfield", "ok")) == 5
