"""Qdrant by its client, in the local mode, behind the contract of an index."""

import pytest

from retrieval import QdrantIndex
from retrieval.testing import check_index, random_rows

pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")


@pytest.mark.filterwarnings("ignore:.*:UserWarning:qdrant_client")
def test_it_keeps_the_contract():
    check_index(QdrantIndex)


def test_a_collection_that_is_there_is_refused():
    first = QdrantIndex(40).add(random_rows(3, 40, 5, seed=0))
    second = QdrantIndex(40)
    second._client = first._client
    with pytest.raises(ValueError, match=r"`collection` must be new; 'sparsecode' is at"):
        second.add(random_rows(3, 40, 5, seed=0))
    assert len(second) == 0
    assert second.id_kind is None


def test_a_remote_collection_that_changed_is_refused(tmp_path):
    index = QdrantIndex(40).add(random_rows(3, 40, 5, seed=0))
    index.location = "http://localhost:1"  # as if the collection were at a server
    index._dump(tmp_path)
    index._load(tmp_path)
    index._client.delete_collection("sparsecode")
    with pytest.raises(ValueError, match=r"as this index left it.* has 0 points instead of 3"):
        index._load(tmp_path)
