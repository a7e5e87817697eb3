"""Milvus by its client, on milvus-lite, behind the contract of an index."""

import numpy as np
import pytest
import scipy.sparse

from retrieval import ExactIndex, MilvusIndex, open_index
from retrieval.index import milvus
from retrieval.testing import check_index, random_rows
from sparsecode.io import CorruptFileError

pytest.importorskip("pymilvus", reason="pymilvus is not installed")
pytest.importorskip("milvus_lite", reason="milvus-lite is not installed")


def test_it_keeps_the_contract():
    check_index(MilvusIndex)


def test_large_additions_and_filters_go_in_parts(monkeypatch):
    documents, queries = random_rows(100, 40, 8, seed=0), random_rows(5, 40, 6, seed=1)
    for name, most in (("ROWS", 30), ("ENTRIES", 100), ("FILTER", 7)):
        monkeypatch.setattr(milvus, name, most)
    index, exact = MilvusIndex(40).add(documents), ExactIndex(40).add(documents)
    for allowed in (None, range(0, 100, 3)):
        found = index.search(queries, 10, filter=allowed)
        np.testing.assert_array_equal(found.ids, exact.search(queries, 10, filter=allowed).ids)
    assert len(index.delete(range(50))) == 50
    np.testing.assert_array_equal(
        index.search(queries, 60).ids, exact.delete(range(50)).search(queries, 60).ids
    )


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([], []),
        ([2], [1]),
        ([2, 2, 2, 2, 2], [3, 2]),
        ([9, 1, 9], [1, 1, 1]),
        ([5, 1, 1, 1], [2, 2]),
    ],
)
def test_a_request_has_limits_but_at_least_one_row(monkeypatch, lengths, parts):
    monkeypatch.setattr(milvus, "ROWS", 3)
    monkeypatch.setattr(milvus, "ENTRIES", 6)
    found = list(milvus._parts(np.cumsum([0, *lengths])))
    assert [len(part) for part in found] == parts
    assert [row for part in found for row in part] == list(range(len(lengths)))


def test_many_ties_go_to_the_lower_ids():
    rows = scipy.sparse.csr_matrix(np.tile([[1.0, 0, 2]], (300, 1)))
    ids = np.random.default_rng(0).permutation(300)
    index = MilvusIndex(3).add(rows, ids=ids)
    assert index.search(rows[:1], 7).ids.tolist() == [list(range(7))]


def test_a_file_of_the_users_own_keeps_the_rows(tmp_path):
    documents, queries = random_rows(50, 40, 8, seed=0), random_rows(5, 40, 6, seed=1)
    uri = str(tmp_path / "own.db")
    index = MilvusIndex(40, uri=uri, collection="first").add(documents, ids=map(str, range(50)))
    index.save(tmp_path / "index")
    assert [file.name for file in (tmp_path / "index" / "engine").iterdir()] == ["state.json"]
    opened = open_index(tmp_path / "index")
    expected = ExactIndex(40).add(documents, ids=map(str, range(50))).search(queries)
    np.testing.assert_array_equal(opened.search(queries).ids, expected.ids)
    with pytest.raises(ValueError, match=r"`collection` must be new; 'first' is at"):
        MilvusIndex(40, uri=uri, collection="first").add(documents)
    MilvusIndex(40, uri=uri, collection="second").add(documents[:3])
    opened.delete(["0"])
    with pytest.raises(CorruptFileError, match=r"the 50 rows of when .* saved; 'first' has 49"):
        open_index(tmp_path / "index")


def test_an_addition_that_failed_half_way_leaves_nothing(monkeypatch):
    documents = random_rows(40, 40, 8, seed=0)
    monkeypatch.setattr(milvus, "ROWS", 10)
    index = MilvusIndex(40).add(documents[:10])
    insert, calls = index._client.insert, []

    def breaks(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise ConnectionError("gone")
        return insert(*arguments)

    monkeypatch.setattr(index._client, "insert", breaks)
    with pytest.raises(ConnectionError, match="gone"):
        index.add(documents[10:])
    assert len(index) == 10
    expected = ExactIndex(40).add(documents[:10]).search(documents, 40)
    np.testing.assert_array_equal(index.search(documents, 40).ids, expected.ids)
    assert index._count() == 10


def test_what_milvus_cannot_hold_or_return_is_refused():
    rows = random_rows(5, 40, 8, seed=0)
    index = MilvusIndex(40).add(rows)
    with pytest.raises(ValueError, match="`documents` must not have values below 0 for Milvus"):
        index.add(-rows)
    with pytest.raises(ValueError, match="`queries` must not have values below 0 for Milvus"):
        index.search(-rows)
    with pytest.raises(ValueError, match="`k` must be at most 16383 for Milvus; got 16384"):
        index.search(rows, 16384)
    with pytest.raises(TypeError, match=r"`search` of MilvusIndex has the options \[\]; got 'ef'"):
        index.search(rows, ef=3)
    with pytest.raises(ValueError, match="`n_features` must be at most 4294967295 for Milvus"):
        MilvusIndex(2**32)
    with pytest.raises(ValueError, match="`uri` must not have a password in it"):
        MilvusIndex(40, uri="http://me:secret@localhost:19530")
    assert len(index) == 5


def test_a_token_is_not_saved(tmp_path):
    index = MilvusIndex(40, token="me:secret").add(random_rows(5, 40, 8, seed=0))
    index.save(tmp_path / "index")
    assert "secret" not in (tmp_path / "index" / "index.json").read_text()
    assert open_index(tmp_path / "index", token="me:secret")._token == "me:secret"
