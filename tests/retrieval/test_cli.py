"""The commands, from a collection to figures, also when they are killed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from typer.testing import CliRunner

from retrieval import ExactIndex, Searcher, beir, evaluate, export, open_index, trec
from retrieval.cli import app
from retrieval.encoded import open_encoded
from retrieval.evaluation import Collection

ENCODER = """
    import os, time
    from sklearn.feature_extraction.text import HashingVectorizer

    class Words(HashingVectorizer):
        def transform(self, X):
            time.sleep(float(os.environ.get("ENCODER_SLEEP", "0")))
            return super().transform(X)

    words = Words(n_features=500, alternate_sign=False)
"""
WORDS = ("sparse", "dense", "code", "vector", "index", "query", "latent", "atom", "list", "rank")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(60)]
    ids = [f"d{number}" for number in range(60)]
    queries = [" ".join(rng.choice(WORDS, 2)) for _ in range(7)]
    qrels = {f"q{n}": {f"d{n}": 1, f"d{8 * n + 1}": 2} for n in range(7)}
    beir.write(Collection(ids, texts, list(qrels), queries, qrels), tmp_path / "data")
    (tmp_path / "my_encoder.py").write_text(textwrap.dedent(ENCODER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoder", raising=False)
    return tmp_path


def run(*words, code=0):
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="retrieval")
    assert done.exit_code == code, done.output
    return done.output


def test_from_a_collection_to_figures(folder):
    run("encode", "my_encoder:words", "data", "--out", "documents", "--part-rows", "16")
    assert "7 rows" in run("encode", "my_encoder:words", "data", "--queries", "--out", "queries")
    assert "60 documents" in run("index", "documents", "--out", "index")
    assert "60 documents" in run("index", "documents", "--out", "index")  # nothing is left to do
    run("search", "index", "queries", "--out", "run.txt", "-k", "10", "--threads", "2")
    found = json.loads(run("evaluate", "run.txt", "data", "--json", "--measures", "nDCG@10,AP@10"))
    import my_encoder

    collection = beir.read("data")
    searcher = Searcher(my_encoder.words, ExactIndex(500))
    searcher.fit(collection.documents, collection.document_ids)
    results = searcher.search(collection.queries, 10).to_run(collection.query_ids)
    assert trec.read_run("run.txt") == results
    assert found == evaluate(results, collection.qrels, ["nDCG@10", "AP@10"])
    costs = ("--documents", "documents", "--queries", "queries")
    assert "flops" in run("evaluate", "run.txt", "data/qrels/test.tsv", *costs)
    run(
        "search",
        "index",
        "queries",
        "--out",
        "two.txt",
        "--first-terms",
        "9",
        "--candidates",
        "100",
    )
    assert {
        q: list(found) for q, found in trec.read_run("two.txt").items()
    }.keys() == results.keys()


@pytest.mark.parametrize("form", ["anserini", "seismic", "opensearch", "bigann", "npz"])
def test_every_format_holds_every_row(folder, form):
    run("encode", "my_encoder:words", "data", "--out", "documents")
    run("export", "documents", "--format", form, "--out", "rows.npz")
    ids, rows = open_encoded("documents").all()
    if form in ("bigann", "npz"):
        read = export.read_bigann if form == "bigann" else scipy.sparse.load_npz
        assert (read("rows.npz") != rows).nnz == 0
        assert Path("rows.npz.ids").read_text().split() == ids
    else:
        n_lines = 120 if form == "opensearch" else 60
        assert len(Path("rows.npz").read_text().splitlines()) == n_lines


def test_files_of_embeddings_and_texts(folder):
    (folder / "positive.py").write_text(
        "import numpy as np, scipy.sparse\n"
        "class Positive:\n"
        "    def encode_documents(self, X): return scipy.sparse.csr_matrix(np.maximum(X, 0))\n"
        "    def encode_queries(self, X): return scipy.sparse.csr_matrix(np.maximum(-X, 0))\n"
        "relu = Positive()\n"
    )
    X = np.random.default_rng(0).standard_normal((20, 5)).astype(np.float32)
    np.save("x.npy", X)
    run("encode", "positive:relu", "x.npy", "--out", "a")
    run("encode", "positive:relu", "x.npy", "--queries", "--out", "b")
    np.testing.assert_array_equal(open_encoded("a").all()[1].toarray(), np.maximum(X, 0))
    np.testing.assert_array_equal(open_encoded("b").all()[1].toarray(), np.maximum(-X, 0))
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa

    pq.write_table(pa.table({"id": list(range(20)), "embedding": X.tolist()}), "x.parquet")
    run("encode", "positive:relu", "x.parquet", "--out", "c")
    assert (open_encoded("c").all()[1] != open_encoded("a").all()[1]).nnz == 0


def killed(words, seconds):
    """Run a command and kill it after some time, unless it ends before."""
    environment = {**os.environ, "ENCODER_SLEEP": "0.05"}
    command = [sys.executable, "-m", "retrieval", *words]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    documents, deadline = Path("documents"), time.monotonic() + 60
    while not list(documents.glob("part-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_encoding_goes_on_and_loses_nothing(folder, monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]))
    words = ["encode", "my_encoder:words", "data", "--out", "documents", "--part-rows", "4"]
    killed(words, 0.1)
    written = {file: file.stat().st_mtime_ns for file in Path("documents").glob("part-*.json")}
    assert 1 <= len(written) < 15
    assert "must be complete; it has" in run("index", "documents", "--out", "index", code=2)
    run(*words)
    assert all(file.stat().st_mtime_ns == then for file, then in written.items())
    run(*words[:3], "--out", "undisturbed", "--part-rows", "4")
    (ids, rows), (want_ids, want) = (open_encoded(f).all() for f in ("documents", "undisturbed"))
    assert ids == want_ids
    assert (rows != want).nnz == 0


def test_a_killed_indexing_goes_on(folder):
    run("encode", "my_encoder:words", "data", "--out", "documents", "--part-rows", "10")
    ids, rows = next(open_encoded("documents").parts())
    ExactIndex(500, path="index").add(rows, ids=ids)  # all that a killed call had done
    assert "60 documents" in run("index", "documents", "--out", "index")
    assert open_index("index").ids == sorted(open_encoded("documents").all()[0])


def test_an_index_in_shards_gives_the_same_run(folder):
    run("encode", "my_encoder:words", "data", "--out", "documents", "--part-rows", "16")
    run("encode", "my_encoder:words", "data", "--queries", "--out", "queries")
    for out, n_shards in (("one", 1), ("three", 3)):
        for _ in range(2):  # the second time nothing is left to do
            assert "60 documents" in run("index", "documents", "--out", out, "--shards", n_shards)
        run("search", out, "queries", "--out", f"{out}.txt", "--threads", "2")
    assert trec.read_run("one.txt") == trec.read_run("three.txt")
    assert len(list(Path("three").glob("shard-*"))) == 3
    wrong = run("index", "documents", "--out", "three", "--shards", "2", code=2)
    assert "has other settings" in wrong


def test_what_is_wrong_is_one_sentence(folder):
    assert "Error: `nowhere` must exist" in run("encode", "a:b", "nowhere", "--out", "o", code=2)
    assert "must have `nothing`" in run(
        "encode", "my_encoder:nothing", "data", "--out", "o", code=2
    )
    assert "or module:object" in run("encode", "nothing", "data", "--out", "o", code=2)
    run("encode", "my_encoder:words", "data", "--out", "o")
    wrong = run("encode", "my_encoder:words", "data", "--queries", "--out", "o", code=2)
    assert "must be a new folder, or hold the same job; n_rows, settings, inputs differ" in wrong
    run("index", "o", "--out", "index")
    assert "has other settings" in run("index", "o", "--out", "index", "--prune-k", "2", code=2)
    Path("x.csv").write_text("a")
    assert "must be a BEIR folder, or a .jsonl" in run(
        "encode", "a:b", "x.csv", "--out", "o", code=2
    )
    part = Path("o/part-000000.safetensors")
    part.write_bytes(part.read_bytes()[:-1])
    assert "part-000000.safetensors` must hold exactly" in run("index", "o", "--out", "i2", code=2)
