"""The comparison of the l0 mask: how it cuts its collection and reads its curves."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def l0(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return retrieval_l0.py, imported as the command sees itself."""
    pytest.importorskip("transformers", reason="needs pip install 'sparsecode[compare]'")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import retrieval_l0

    yield retrieval_l0
    del sys.modules["retrieval_l0"]


def test_products_are_read_off_between_points(l0: ModuleType) -> None:
    curve = [(0.4, 1.0), (0.2, 0.25), (0.3, 0.5)]
    assert l0.products_at(curve, 0.3) == pytest.approx(0.5)
    assert l0.products_at(curve, 0.35) == pytest.approx(0.5**0.5)
    assert l0.products_at(curve, 0.1) == pytest.approx(0.25)
    assert l0.products_at(curve, 0.5) is None
    assert l0.ratios(curve, [(0.35, 0.5), (0.9, 9.0)]) == [(0.35, pytest.approx(0.5**0.5))]


def test_the_judged_documents_are_kept_with_some_others(l0: ModuleType) -> None:
    ids = [f"d{i}" for i in range(20)]
    qrels = {"q": {"d3": 1, "d7": 0}}
    found = l0.reduced(l0.Collection(ids, ids, ["q"], ["what"], qrels), 4)
    assert {"d3", "d7"} < set(found.document_ids)
    assert len(found.document_ids) == 6
    assert found.documents == found.document_ids


def test_queries_are_runs_of_words_of_their_documents(l0: ModuleType) -> None:
    text = " ".join(f"w{i}" for i in range(30))
    queries, documents = l0.cropped([text, "too short"], 3, seed=0)
    assert documents == [text] * 3
    assert all(query in text and 4 <= len(query.split()) <= 10 for query in queries)
