"""Qdrant Edge behind the contract of an index."""

import numpy as np
import pytest
import scipy.sparse

from retrieval import ExactIndex, QdrantEdgeIndex, open_index
from retrieval.testing import check_index, random_rows
from sparsecode.io import CorruptFileError

pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")


def test_it_keeps_the_contract():
    check_index(QdrantEdgeIndex)


def test_negative_weights_are_scored_and_ranked():
    documents, queries = random_rows(200, 40, 8, seed=0), random_rows(10, 40, 6, seed=1)
    documents.data[::2] *= -1
    found = QdrantEdgeIndex(40).add(documents).search(queries, 30)
    exact = ExactIndex(40).add(documents).search(queries, 30)
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-4, atol=1e-6)


def test_many_ties_go_to_the_lower_ids():
    rows = scipy.sparse.csr_matrix(np.tile([[1.0, 0, 2]], (500, 1)))
    ids = np.random.default_rng(0).permutation(500)
    index = QdrantEdgeIndex(3).add(rows, ids=ids)
    assert index.search(rows[:1], 7).ids.tolist() == [list(range(7))]


def test_a_changed_file_is_refused_by_name(tmp_path):
    QdrantEdgeIndex(40).add(random_rows(20, 40, 8, seed=0)).save(tmp_path / "index")
    files = [file for file in (tmp_path / "index" / "engine").rglob("*") if file.stat().st_size]
    file = max((file for file in files if file.is_file()), key=lambda file: file.name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=file.name):
        open_index(tmp_path / "index")


def test_too_many_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"`n_features` must be at most 4294967296 for Qdrant"):
        QdrantEdgeIndex(2**32 + 1)
