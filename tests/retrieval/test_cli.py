"""The commands, from a collection to figures, also when they are killed."""

import json
import os
import random
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

from retrieval import (
    ContrastiveSparseEncoder,
    ExactIndex,
    FlopsEncoder,
    InferenceFreeEncoder,
    Searcher,
    beir,
    evaluate,
    export,
    open_index,
    save_encoder,
    trec,
)
from retrieval.cli import app
from retrieval.cli.inputs import read_inputs
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


@pytest.fixture
def saved(folder):
    """Folders of encoders, and what they encode: of embeddings ``x.npy``, of texts ``data``."""
    X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    np.save("x.npy", X)
    fast = {"max_steps": 2, "batch_size": 16, "device": "cpu"}
    encoders = {
        "contrastive": ContrastiveSparseEncoder(24, k=3, **fast).fit(X),
        "flops": FlopsEncoder(24, target_active=10, **fast).fit(X),
        "free": InferenceFreeEncoder(*language_model(), idf={"sparse": 2.0}, device="cpu"),
    }
    for name, encoder in encoders.items():
        save_encoder(encoder, folder / name)
    return encoders


def language_model():
    """Return a BERT with random weights that knows the words of the collection, and them."""
    pytest.importorskip("transformers", reason="needs pip install 'sparsecode[llm]'")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    return BertForMaskedLM(config).eval(), tokenizer


@pytest.mark.parametrize("name", ["contrastive", "flops"])
def test_saved_encoders_of_embeddings_from_files_to_figures(saved, name):
    X, encoder = np.load("x.npy"), saved[name]
    run("encode", name, "x.npy", "--out", "documents", "--part-rows", "16")
    np.save("q.npy", X[:5])
    run("encode", name, "q.npy", "--queries", "--out", "queries")
    assert abs(open_encoded("documents").all()[1] - encoder.encode_documents(X)).max() < 1e-6
    run("index", "documents", "--out", "index")
    run("search", "index", "queries", "--out", "run.txt", "-k", "3")
    Path("qrels.txt").write_text("".join(f"{n} 0 {n} 1\n" for n in range(5)))
    found = json.loads(run("evaluate", "run.txt", "qrels.txt", "--json", "--measures", "RR@3"))
    scores = (encoder.encode_queries(X[:5]) @ encoder.encode_documents(X).T).toarray()
    own = scores[np.arange(5), np.arange(5)]
    places = 1 + (scores > own[:, None] + 1e-6).sum(1)
    assert found["RR@3"] == pytest.approx(np.where((own > 0) & (places <= 3), 1 / places, 0).mean())
    run("export", "documents", "--format", "npz", "--out", "rows.npz")
    assert scipy.sparse.load_npz("rows.npz").shape == (40, 24)
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa

    pq.write_table(pa.table({"_id": list("abcd"), "embedding": X[:4].tolist()}), "x.parquet")
    run("encode", name, "x.parquet", "--out", "parquet")
    ids, rows = open_encoded("parquet").all()
    assert ids == list("abcd")
    assert abs(rows - encoder.encode_documents(X[:4])).max() < 1e-6


def test_a_saved_encoder_of_texts_from_texts_to_figures(saved):
    encoder, collection = saved["free"], beir.read("data")
    run("encode", "free", "data", "--out", "documents", "--part-rows", "16", "--progress")
    run("encode", "free", "data", "--queries", "--out", "queries")
    ids, rows = open_encoded("documents").all()
    assert ids == collection.document_ids
    assert abs(rows - encoder.encode_documents(collection.documents)).max() < 1e-5
    queries = open_encoded("queries").all()[1]
    assert (queries != encoder.encode_queries(collection.queries)).nnz == 0
    run("index", "documents", "--out", "index")
    run("search", "index", "queries", "--out", "run.txt")
    results = trec.read_run("run.txt")
    found = json.loads(run("evaluate", "run.txt", "data", "--json"))
    assert found == evaluate(results, collection.qrels)
    lines = [{"id": one, "text": text} for one, text in zip(ids, collection.documents, strict=True)]
    Path("texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("encode", "free", "texts.jsonl", "--out", "jsonl", "--part-rows", "16")
    assert (open_encoded("jsonl").all()[1] != rows).nnz == 0
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(lines), "texts.parquet")
    run("encode", "free", "texts.parquet", "--out", "parquet", "--part-rows", "16")
    assert (open_encoded("parquet").all()[1] != rows).nnz == 0


def test_an_encoder_that_has_changed_does_not_go_on(saved, folder):
    words = ["encode", "contrastive", "x.npy", "--out", "rows", "--part-rows", "10"]
    run(*words)
    before = {file.name: file.read_bytes() for file in Path("rows").iterdir()}
    Path("rows/part-000002.json").unlink()  # as if it had been killed
    run("encode", str(folder / "contrastive"), *words[2:])  # the same one by another path
    assert {file.name: file.read_bytes() for file in Path("rows").iterdir()} == before
    again = ContrastiveSparseEncoder(24, k=3, max_steps=3, batch_size=16, device="cpu")
    save_encoder(again.fit(np.load("x.npy")), "contrastive")
    for _ in range(2):  # finished or not
        wrong = run(*words, code=2)
        assert "must go on with the encoder that it was begun with" in wrong
        Path("rows/part-000002.json").unlink(missing_ok=True)


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
    killed(words, random.uniform(0.0, 0.4))
    written = {file: file.stat().st_mtime_ns for file in Path("documents").glob("part-*.json")}
    assert 1 <= len(written) < 15
    assert "must be complete; it has" in run("index", "documents", "--out", "index", code=2)
    run(*words)
    assert all(file.stat().st_mtime_ns == then for file, then in written.items())
    run(*words[:3], "--out", "undisturbed", "--part-rows", "4")
    (ids, rows), (want_ids, want) = (open_encoded(f).all() for f in ("documents", "undisturbed"))
    assert ids == want_ids
    assert (rows != want).nnz == 0
    for name in (file.name for file in Path("undisturbed").iterdir()):
        assert Path("documents", name).read_bytes() == Path("undisturbed", name).read_bytes()


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


def test_tables_are_read_as_lines_are(folder):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet as pq

    rows = [{"_id": "1", "title": "T", "text": "cat"}, {"_id": "2", "title": None, "text": "dog"}]
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"queries": False, "split": None}
    assert read_inputs(Path("a.parquet"), **options) == (["1", "2"], ["T cat", "dog"])
    assert read_inputs(Path("a.jsonl"), **options) == (["1", "2"], ["T cat", "dog"])
    for bad, message in (
        ([{"_id": None, "text": "a"}, {"_id": "1", "text": "b"}], "no empty cell in _id"),
        ([{"_id": "1", "text": None}, {"_id": "2", "text": "b"}], "no empty cell in text"),
        ([{"_id": "1", "text": "a"}, {"_id": "1", "text": "b"}], "each id once; got '1'"),
        ([{"embedding": [1.0, 2.0]}, {"embedding": [1.0]}], "embeddings of equal length"),
    ):
        pq.write_table(pa.Table.from_pylist(bad), "b.parquet")
        with pytest.raises(ValueError, match=message):
            read_inputs(Path("b.parquet"), **options)
    Path("empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="must have at least one row to encode"):
        read_inputs(Path("empty.jsonl"), **options)
