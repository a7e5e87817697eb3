"""OpenSearch: requests word for word, and scores that are dot products."""

import json

import numpy as np
import pytest
import scipy.sparse

from retrieval import opensearch
from retrieval.testing import random_rows

ROWS = scipy.sparse.csr_matrix(np.array([[0.5, 0, 2], [0, 0, 0]], np.float32))

BULK = """\
{"index": {"_index": "docs", "_id": "7"}}
{"title": "one", "v": {"cat": 0.5, "mat": 2.0}}
{"index": {"_index": "docs", "_id": "8"}}
{"title": "two", "v": {}}"""

QUERY = {
    "size": 3,
    "query": {
        "bool": {
            "should": [
                {"rank_feature": {"field": "v.cat", "boost": 0.5, "linear": {}}},
                {"rank_feature": {"field": "v.mat", "boost": 2.0, "linear": {}}},
            ],
            "minimum_should_match": 1,
        }
    },
}


def test_requests_word_for_word():
    sources = [{"title": "one"}, {"title": "two"}]
    options = {"field": "v", "names": ["cat", "dog", "mat"]}
    lines = opensearch.bulk_lines(ROWS, [7, 8], index="docs", sources=sources, **options)
    assert "\n".join(lines) == BULK
    assert opensearch.query(ROWS[:1], 3, **options) == QUERY
    assert opensearch.query(ROWS[1:])["query"] == {"match_none": {}}


def stored(weight):
    """Return a weight as the servers keep it: the upper 16 bits of the float."""
    return float((np.float32(weight).view(np.uint32) & np.uint32(0xFFFF8000)).view(np.float32))


def test_the_clauses_add_up_to_the_dot_product():
    documents, queries = random_rows(50, 40, 8, seed=0), random_rows(5, 40, 6, seed=1)
    lines = list(opensearch.bulk_lines(documents, range(50), index="i"))
    features = [json.loads(line)["vector"] for line in lines[1::2]]
    dense = (queries @ documents.T).toarray()
    for number in range(5):
        clauses = opensearch.query(queries[number])["query"]["bool"]["should"]
        for row, document in enumerate(features):
            exact = coarse = 0.0
            for clause in clauses:
                feature = clause["rank_feature"]
                weight = document.get(feature["field"].removeprefix("vector."), 0.0)
                exact += feature["boost"] * weight
                coarse += feature["boost"] * stored(weight)
            assert exact == pytest.approx(dense[number, row], rel=1e-6)
            assert coarse == pytest.approx(exact, rel=opensearch.RELATIVE_ERROR)


def test_what_servers_refuse_is_refused_here():
    with pytest.raises(ValueError, match=r"`documents` must have weights of at least .* got -"):
        list(opensearch.bulk_lines(-ROWS, [1, 2], index="i"))
    with pytest.raises(ValueError, match=r"`names` must not be empty or have dots.*; got 'a\.b'"):
        opensearch.query(ROWS[:1], names=["a.b", "c", "d"])
    with pytest.raises(ValueError, match=r"at most 1024 entries.*; got 1025"):
        opensearch.query(scipy.sparse.csr_matrix(np.ones((1, 1025))))
    with pytest.raises(ValueError, match=r"`row` must be one row; got 2"):
        opensearch.query(ROWS)
    with pytest.raises(ValueError, match=r"`sources` must not have the field 'vector'"):
        list(opensearch.bulk_lines(ROWS, [1, 2], index="i", sources=[{"vector": 1}, {}]))
    with pytest.raises(ValueError, match=r"`names` must be 3 different names; got 2"):
        opensearch.query(ROWS[:1], names=["a", "a", "b"])
    with pytest.raises(ValueError, match=r"one item for each of 2 documents; got 1 and 1"):
        list(opensearch.bulk_lines(ROWS, [1], index="i"))
