"""Seismic behind the contract of an index, and how much it finds."""

import numpy as np
import pytest
import scipy.sparse

from retrieval import ExactIndex, SeismicIndex, open_index
from retrieval.index import seismic as seismic_index
from retrieval.testing import check_index, random_rows
from sparsecode.io import CorruptFileError

pytest.importorskip("seismic", reason="pyseismic-lsr is not installed")


def test_it_keeps_the_contract():
    check_index(SeismicIndex, recall=0.98)


def test_it_is_exact_where_nothing_is_cut_or_skipped():
    check_index(lambda width: SeismicIndex(width, heap_factor=0))


def test_recall_falls_with_faster_options_and_scores_stay_exact():
    documents, queries = random_rows(3000, 400, 30, seed=0), random_rows(40, 400, 12, seed=1)
    index = SeismicIndex(400, n_postings=60, centroid_fraction=0.05).add(documents)
    fast = index.recall(queries, query_cut=2, heap_factor=1.0)
    default = index.recall(queries)
    assert fast < default < 1
    found = index.search(queries, 10, query_cut=2, heap_factor=1.0)
    dense = (queries @ documents.T).toarray()
    rows = np.arange(40)[:, None]
    np.testing.assert_allclose(found.scores, dense[rows, found.ids], rtol=1e-6)
    exact = ExactIndex(400).add(documents)
    assert found.recall(exact.search(queries)) == fast
    whole = SeismicIndex(400, n_postings=3000).add(documents)
    assert whole.recall(queries, heap_factor=0) == 1


def test_values_beyond_float16_are_ranked():
    rows = random_rows(50, 40, 8, seed=0)
    queries = random_rows(5, 40, 6, seed=1)
    for factor in (1e-20, 1e20):
        documents = (rows * np.float32(factor)).tocsr()
        found = SeismicIndex(40).add(documents).search(queries)
        np.testing.assert_array_equal(found.ids, ExactIndex(40).add(documents).search(queries).ids)


@pytest.mark.parametrize("width", [70_000, 2**31 - 1], ids=["70k", "2^31"])
def test_wide_rows_take_memory_for_dimensions_that_occur_only(width, tmp_path):
    few = random_rows(30, 40, 8, seed=0)
    spread = np.linspace(0, width - 1, 40).astype(np.int64)
    wide = scipy.sparse.csr_matrix((few.data, spread[few.indices], few.indptr), (30, width))
    SeismicIndex(width).add(wide).save(tmp_path / "index")
    found = open_index(tmp_path / "index").search(wide, 3)
    np.testing.assert_array_equal(found.ids, ExactIndex(40).add(few).search(few, 3).ids)


def test_the_engines_type_for_many_dimensions(tmp_path, monkeypatch):
    monkeypatch.setattr(seismic_index, "SMALL_TYPE", 39)  # 2^16 + 1 of them take a minute to build
    documents, queries = random_rows(300, 40, 8, seed=0), random_rows(10, 40, 6, seed=1)
    index = SeismicIndex(40, heap_factor=0).add(documents)
    index.save(tmp_path / "index")
    expected = ExactIndex(40).add(documents).search(queries).ids
    np.testing.assert_array_equal(index.search(queries).ids, expected)
    np.testing.assert_array_equal(open_index(tmp_path / "index").search(queries).ids, expected)


def test_filters_of_few_and_of_many_documents_hold_after_deletions():
    documents, queries = random_rows(400, 40, 8, seed=0), random_rows(10, 40, 6, seed=1)
    documents[7] *= 0
    index = SeismicIndex(40, heap_factor=0).add(documents).delete([11, 12])
    exact = ExactIndex(40).add(documents).delete([11, 12])
    for allowed in ([7, 11, 13], list(range(7, 30)), list(range(1, 400, 3)), list(range(390))):
        found = index.search(queries, 5, filter=allowed)
        np.testing.assert_array_equal(found.ids, exact.search(queries, 5, filter=allowed).ids)


def test_neighbors_are_looked_at_where_they_were_built():
    documents, queries = random_rows(300, 40, 8, seed=0), random_rows(10, 40, 6, seed=1)
    index = SeismicIndex(40, n_postings=10, nknn=5).add(documents)
    options = {"query_cut": 1, "heap_factor": 1.0}
    assert index.recall(queries, n_knn=5, **options) > index.recall(queries, **options)
    with pytest.raises(ValueError, match=r"`n_knn` must be an int in \[0, 5\]; got 6"):
        index.search(queries, n_knn=6)


def test_documents_come_back_as_they_were():
    documents = random_rows(5, 40, 8, seed=0)
    index = SeismicIndex(40).add(documents, ids=list("abcde"))
    index.add(scipy.sparse.csr_matrix((1, 40)), ids=["empty"]).delete(["b"])
    assert (index.document("c") != documents[2]).nnz == 0
    assert index.document("empty").shape == (1, 40)
    assert index.document("empty").nnz == 0
    assert index.search(documents[2], 1).ids.tolist() == [["c"]]
    with pytest.raises(ValueError, match=r"`one` must be in the index; 'b' is not"):
        index.document("b")


def test_what_it_would_rank_wrongly_is_refused():
    rows = random_rows(5, 40, 8, seed=0)
    below = rows.copy()
    below.data[20] = -1
    index = SeismicIndex(40).add(rows)
    with pytest.raises(
        ValueError, match=r"`documents` must not have values below 0 for Seismic; got -1.0 in row 2"
    ):
        index.add(below)
    assert len(index) == 5
    with pytest.raises(ValueError, match=r"`queries` must not have values below 0 for Seismic"):
        index.search(below)
    with pytest.raises(ValueError, match=r"`heap_factor` must be a finite number in \[0, 1\]"):
        index.search(rows, heap_factor=1.5)
    with pytest.raises(ValueError, match=r"`query_cut` must be an int in \[1, inf\); got 0"):
        index.search(rows, query_cut=0)
    with pytest.raises(TypeError, match=r"has the options \['query_cut', 'heap_factor', 'n_knn'\]"):
        index.search(rows, heap=0.5)
    with pytest.raises(ValueError, match="`summary_energy` must be a finite number"):
        SeismicIndex(40, summary_energy=0.0)
    with pytest.raises(ValueError, match="`heap_factor` must be a finite number"):
        SeismicIndex(40, heap_factor=-0.1)


def test_a_changed_file_is_refused_by_name(tmp_path):
    SeismicIndex(40).add(random_rows(20, 40, 8, seed=0)).save(tmp_path / "index")
    file = tmp_path / "index" / "engine" / "engine.index.seismic"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=r"engine\.index\.seismic"):
        open_index(tmp_path / "index")
