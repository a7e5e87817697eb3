"""The searcher: encoder and index together, and explanations that add up."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from retrieval import ExactIndex, Searcher
from retrieval.testing import random_rows

TEXTS = ["the cat sat on the mat", "a dog sat", "birds fly over the mat", "cats and dogs", ""]


class Asymmetric:
    """Documents are weighed, queries are counted; dimensions have names."""

    def __init__(self):
        self.tfidf = TfidfVectorizer().fit(TEXTS)

    def encode_documents(self, X):
        return self.tfidf.transform(X)

    def encode_queries(self, X):
        return (self.tfidf.transform(X) > 0).astype(np.float32)

    def dimension_names(self, ids):
        return [self.tfidf.get_feature_names_out()[one] for one in ids]


def test_documents_in_batches_are_documents_at_once():
    encoder = Asymmetric()
    width = len(encoder.tfidf.vocabulary_)
    ids = ["a", "b", "c", "d", "e"]
    small = Searcher(encoder, ExactIndex(width), batch_size=2).fit(TEXTS, ids)
    once = Searcher(encoder, ExactIndex(width)).fit(TEXTS, ids)
    queries = ["cat on mat", "dog", "unseen words", ""]
    np.testing.assert_array_equal(small.search(queries, 3).ids, once.search(queries, 3).ids)
    assert once.search(queries, 3).ids.tolist()[2:] == [[None] * 3] * 2
    assert once.search(queries, 3, filter=["c"]).ids[0].tolist() == ["c", None, None]


@pytest.mark.parametrize("values", ["float32", "float16", "uint8"])
def test_contributions_are_named_and_add_up_to_the_score(values):
    encoder = Asymmetric()
    index = ExactIndex(len(encoder.tfidf.vocabulary_), values=values)
    searcher = Searcher(encoder, index).fit(TEXTS)
    found = searcher.search(["cat on the mat"], 3)
    for one, score in found.lists()[0]:
        why = searcher.explain("cat on the mat", one)
        assert why.score == score
        assert why.contributions.sum() == pytest.approx(score, rel=1e-6)
        assert (np.diff(why.contributions) <= 0).all()
    why = searcher.explain("cat on the mat", 2)
    assert set(why.names) == {"the", "mat"}
    assert str(why).split("\n")[-1] == f"score {why.score:.4f}"
    assert searcher.explain("dog", 2).score == 0


def test_a_transformer_serves_both_sides_and_embeddings():
    class Positive:
        def transform(self, X):
            return scipy.sparse.csr_matrix(np.maximum(X, 0))

    X = random_rows(30, 12, 4, seed=0).toarray() - 0.2
    searcher = Searcher(Positive(), ExactIndex(12)).fit(X)
    dense = np.maximum(X, 0) @ np.maximum(X, 0).T
    assert searcher.search(X, 1).scores[:, 0].tolist() == pytest.approx(dense.max(1).tolist())
    assert searcher.explain(X[3], 4).score == pytest.approx(dense[3, 4])
    assert searcher.explain(X[3], 4).names[0].isdigit()


def test_wrong_arguments_are_refused():
    encoder = Asymmetric()
    searcher = Searcher(encoder, ExactIndex(3))
    with pytest.raises(ValueError, match=r"`encoded documents` must have shape .* = \(any, 3\)"):
        searcher.fit(TEXTS)
    with pytest.raises(ValueError, match=r"`ids` must have one id for each of 5 documents; got 1"):
        searcher.fit(TEXTS, ["a"])
    assert len(searcher.index) == 0


def test_fit_wants_an_empty_index_and_add_extends_it():
    encoder = Asymmetric()
    searcher = Searcher(encoder, ExactIndex(len(encoder.tfidf.vocabulary_)), batch_size=2)
    searcher.fit(TEXTS[:3], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"`index` must be empty for `fit`; it has 3 documents"):
        searcher.fit(TEXTS)
    assert len(searcher.add(TEXTS[3:], ["d", "e"]).index) == 5
    once = Searcher(encoder, ExactIndex(len(encoder.tfidf.vocabulary_))).fit(TEXTS, list("abcde"))
    queries = ["cat on mat", "dog"]
    np.testing.assert_array_equal(searcher.search(queries, 3).ids, once.search(queries, 3).ids)


def test_a_batch_that_is_refused_leaves_the_index_as_it_was():
    class Sometimes:
        def transform(self, X):
            return scipy.sparse.csr_matrix(X)

    X = random_rows(7, 12, 4, seed=0).toarray()
    X[6, 0] = np.nan
    searcher = Searcher(Sometimes(), ExactIndex(12), batch_size=2)
    with pytest.raises(ValueError, match="`encoded documents` must be finite"):
        searcher.fit(X, range(7))
    assert len(searcher.index) == 0
    assert len(searcher.fit(X[:6], range(6)).index) == 6
