"""Hybrid search against hand-computed fusions."""

import math
import re

import numpy as np
import pytest

from retrieval.hybrid import BM25, linear_fusion, reciprocal_rank_fusion, rescore
from retrieval.index.results import from_lists

A = from_lists([[("a", 9.0), ("b", 5.0), ("c", 1.0)], [("a", 1.0)]], 3, text_ids=True)
B = from_lists([[("c", 0.3), ("d", 0.1)], []], 2, text_ids=True)


def test_reciprocal_rank_fusion_by_hand():
    found = reciprocal_rank_fusion([A, B], 4).lists()
    want = {"a": 1 / 61, "b": 1 / 62, "c": 1 / 63 + 1 / 61, "d": 1 / 62}
    assert [one for one, _ in found[0]] == ["c", "a", "b", "d"]
    assert dict(found[0]) == pytest.approx(want)
    assert dict(found[1]) == pytest.approx({"a": 1 / 61})


def test_linear_fusion_by_hand():
    found = dict(linear_fusion([A, B], 4).lists()[0])
    assert found == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.5, "d": 0.0})
    plain = linear_fusion([A, B], 4, weights=[1.0, 10.0], normalization="none").lists()[0]
    assert dict(plain) == pytest.approx({"a": 9.0, "b": 5.0, "c": 4.0, "d": 1.0})
    z = dict(linear_fusion([A, B], 4, normalization="z").lists()[0])
    spread = math.sqrt(32 / 3)
    assert z["c"] == pytest.approx((-4 / spread + 1) / 2)
    assert z["a"] == pytest.approx((4 / spread - 1) / 2)


def test_equal_scores_of_one_ranking_do_not_divide_by_zero():
    flat = from_lists([[(1, 2.0), (2, 2.0)]], 2, text_ids=False)
    assert dict(linear_fusion([flat], 2).lists()[0]) == {1: 1.0, 2: 1.0}
    assert dict(linear_fusion([flat], 2, normalization="z").lists()[0]) == {1: 0.0, 2: 0.0}


def test_rescoring_takes_candidates_only():
    documents = np.eye(4, dtype=np.float32) * np.arange(1, 5)[:, None]
    queries = np.array([[1.0, 1, 1, 1], [1, 0, 0, 0]])
    found = rescore(A, queries, documents, ["a", "b", "c", "d"], k=2)
    assert found.lists() == [[("c", 3.0), ("b", 2.0)], [("a", 1.0)]]
    with pytest.raises(ValueError, match=r"`ids` must have every candidate; 'c' is missing"):
        rescore(A, queries, documents[:2], ["a", "b"])


def test_bm25_is_the_formula():
    texts = ["red fox red", "blue fox", "green tree grows", "red"]
    words = [text.split() for text in texts]
    leg = BM25(texts, k1=0.9, b=0.4, stopwords="")
    found = leg.search(["red tree", "nothing"], k=3)
    mean = sum(map(len, words)) / 4
    scores = {}
    for row, text in enumerate(words):
        total = 0.0
        for word in ("red", "tree"):
            df, tf = sum(word in other for other in words), text.count(word)
            idf = math.log(1 + (4 - df + 0.5) / (df + 0.5))
            total += idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * len(text) / mean))
        if total:
            scores[row] = total
    assert dict(found.lists()[0]) == pytest.approx(scores, rel=1e-5)
    assert found.lists()[1] == []


def test_wrong_arguments_are_refused():
    with pytest.raises(
        ValueError, match=r"`results` must be at least one, all of the same queries"
    ):
        reciprocal_rank_fusion([A, from_lists([], 1, text_ids=True)])
    with pytest.raises(TypeError, match=r"ids of one kind"):
        reciprocal_rank_fusion([A, from_lists([[(1, 1.0)], []], 1, text_ids=False)])
    with pytest.raises(ValueError, match=re.escape("`weights` must be 2 finite numbers")):
        linear_fusion([A, B], weights=[1.0])
    with pytest.raises(ValueError, match=r"`documents` must be at least one text"):
        BM25(["a"], [])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e39])
def test_scores_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match=r"Scores must be finite; got .* for document 1 of query"):
        from_lists([[(0, 1.0), (1, value), (2, 3.0)]], 3, text_ids=False)
    candidates = from_lists([[(0, 1.0), (1, 0.5)]], 2, text_ids=False)
    embeddings = np.array([[1.0], [value]])
    with pytest.raises(ValueError, match="Scores must be finite"):
        rescore(candidates, np.ones((1, 1)), embeddings, [0, 1])


def test_bm25_wants_texts_with_words():
    with pytest.raises(ValueError, match=r"`documents` must have a word .*none of 2 has one"):
        BM25(["the", ""])
    assert BM25(["the", ""], stopwords="").search(["the"], k=1).ids.tolist() == [[0]]
    with pytest.raises(TypeError, match="`queries` must be a sequence of strings; got the single"):
        BM25(["cat"]).search("cat")
    with pytest.raises(TypeError, match="`documents` must be a sequence of strings; got 3"):
        BM25(["cat", 3])
    with pytest.raises(ValueError, match="`ids` must be unique; got 'a' twice"):
        BM25(["cat", "dog"], ["a", "a"])
    assert BM25(np.array(["cat", "dog"]), np.array([4, 7])).search(["dog"], 1).ids.tolist() == [[7]]


def test_a_ranking_without_results_has_no_kind_of_ids():
    nothing = from_lists([[]], 2, text_ids=False)
    named = from_lists([[("a", 1.0)]], 2, text_ids=True)
    for results in ([nothing, named], [named, nothing]):
        assert reciprocal_rank_fusion(results, 2).ids.tolist() == [["a", None]]
        assert linear_fusion(results, 2).ids.tolist() == [["a", None]]
    assert reciprocal_rank_fusion([nothing, nothing], 2).ids.tolist() == [[-1, -1]]
