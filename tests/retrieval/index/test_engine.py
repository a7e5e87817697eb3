"""What indexes over other engines have in common."""

import sys

import pytest

from retrieval import (
    MilvusIndex,
    PgvectorIndex,
    QdrantEdgeIndex,
    QdrantIndex,
    SeismicIndex,
    open_index,
)
from retrieval.testing import random_rows

ENGINES = [
    (QdrantIndex, "qdrant_client", "qdrant-client", "engines"),
    (QdrantEdgeIndex, "qdrant_edge", "qdrant-edge-py", "engines"),
    (SeismicIndex, "seismic", "pyseismic-lsr", "seismic"),
    (MilvusIndex, "pymilvus", "pymilvus", "milvus"),
    (PgvectorIndex, "psycopg", "psycopg", "pgvector"),
]


@pytest.mark.parametrize(("index", "module", "package", "extra"), ENGINES)
def test_an_engine_that_is_not_installed_names_its_extra(
    index, module, package, extra, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    sentence = (
        rf"`{index.__name__}` needs {package}\. Install it with pip install 'sparsecode\[{extra}\]'"
    )
    with pytest.raises(ImportError, match=sentence):
        index(40)


def test_arguments_may_change_when_an_index_is_opened(tmp_path):
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    QdrantEdgeIndex(40).add(random_rows(5, 40, 8, seed=0)).save(tmp_path / "index")
    assert open_index(tmp_path / "index", n_features=40).n_features == 40
    with pytest.raises(TypeError, match="uri"):
        open_index(tmp_path / "index", uri="elsewhere")


def test_an_option_that_an_engine_does_not_have_is_refused():
    pytest.importorskip("qdrant_edge", reason="qdrant-edge-py is not installed")
    rows = random_rows(5, 40, 8, seed=0)
    with pytest.raises(
        TypeError, match=r"`search` of QdrantEdgeIndex has the options \[\]; got 'first_terms'"
    ):
        QdrantEdgeIndex(40).add(rows).search(rows, first_terms=3)
