"""Collections and runs on disk: what is written is read again; what is wrong is named."""

import gzip
import json

import pytest

from retrieval import beir, trec
from retrieval.evaluation import Collection

COLLECTION = Collection(
    ["d1", "d\u00e9"],
    ["one text", "zwei\u2028\u00e4"],
    ["q"],
    ["what?"],
    {"q": {"d1": 2, "d\u00e9": 0}},
)


def test_what_is_written_is_read(tmp_path):
    beir.write(COLLECTION, tmp_path)
    assert beir.read(tmp_path) == COLLECTION
    trec.write_qrels(tmp_path / "qrels.txt", COLLECTION.qrels)
    assert trec.read_qrels(tmp_path / "qrels.txt") == COLLECTION.qrels
    run = {"q": {"d1": 0.1, "d\u00e9": 2 / 3}}
    trec.write_run(tmp_path / "run.txt", run, tag="mine")
    assert trec.read_run(tmp_path / "run.txt") == run
    assert (tmp_path / "run.txt").read_text().split("\n")[0] == f"q Q0 d\u00e9 1 {2 / 3!r} mine"


def test_titles_splits_and_packed_files(tmp_path):
    (tmp_path / "qrels").mkdir()
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as file:
        file.write('{"_id": 1, "title": "T", "text": "x"}\n\n{"_id": "2", "text": "y"}\n')
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "a", "text": "?"}\n{"_id": "b", "text": "!"}\n'
    )
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nb\t1\t1\n")
    found = beir.read(tmp_path, "dev")
    assert found.documents == ["T x", "y"]
    assert found.document_ids == ["1", "2"]
    assert found.query_ids == ["b"]
    assert beir.read(tmp_path, None).query_ids == ["a", "b"]
    with pytest.raises(FileNotFoundError, match=r"test\.tsv` must exist"):
        beir.read(tmp_path)


def test_wrong_lines_are_named(tmp_path):
    beir.write(COLLECTION, tmp_path)
    corpus = (tmp_path / "corpus.jsonl").read_text()
    for text, message in [
        ("[1]\n", r"line 1 of `.*corpus\.jsonl` must be a JSON object; got '\[1\]'"),
        (corpus + '{"_id": "x"', r"line 3 of `.*corpus\.jsonl` must be a JSON object; "),
        ('{"_id": "x"}', r"must have `_id` and a string `text`; got keys \['_id'\]"),
        (corpus + corpus, r"`corpus\.jsonl` must have each id once; got 'd1' twice"),
    ]:
        (tmp_path / "corpus.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            beir.read(tmp_path)
    (tmp_path / "corpus.jsonl").write_text(corpus)
    (tmp_path / "qrels" / "test.tsv").write_text("q\td1\tmuch\n")
    with pytest.raises(ValueError, match=r"an integer grade .* got .* in line 1"):
        beir.read(tmp_path)
    (tmp_path / "run.txt").write_text("q Q0 d1 1 0.5\n")
    with pytest.raises(ValueError, match=r"must have lines `query Q0 document rank score tag`"):
        trec.read_run(tmp_path / "run.txt")
    with pytest.raises(ValueError, match=r"must have lines `query 0 document grade`"):
        trec.read_qrels(tmp_path / "run.txt")
    with pytest.raises(ValueError, match=r"ids without white space.*; got 'a b'"):
        trec.write_run(tmp_path / "other.txt", {"q": {"a b": 1.0}})


@pytest.mark.parametrize(
    ("name", "n_documents", "n_queries", "n_judged"),
    [("vaswani", 11429, 93, 2083), ("cranfield", 1400, 225, 1612)],
)
def test_real_collections(sparsecode_data, name, n_documents, n_queries, n_judged):
    found = beir.read(sparsecode_data / "ir" / name)
    assert len(found.documents) == n_documents
    assert len(found.queries) == n_queries == len(found.qrels)
    assert sum(map(len, found.qrels.values())) == n_judged


def test_grades_and_headers_of_others_are_read(tmp_path):
    path = tmp_path / "test.tsv"
    path.write_text("query\tdocument\trelevance\nq1\ta\t1.0\nq1\tb\t0\n\nq2\tc\t-1\n")
    assert beir.read_qrels(path) == {"q1": {"a": 1, "b": 0}, "q2": {"c": -1}}
    path.write_text("q1\ta\t1\n")
    assert beir.read_qrels(path) == {"q1": {"a": 1}}
    path.write_text("q1\ta\t1\n\n\nq1\tb\thigh\n")
    with pytest.raises(ValueError, match="in line 4"):
        beir.read_qrels(path)
    path.write_text("q1\ta\t1\nq1\tb\t1.5\n")
    with pytest.raises(ValueError, match="an integer grade"):
        beir.read_qrels(path)


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"_id": 1}).encode())
    assert [row for row, _ in beir.json_lines(path)] == [{"_id": 1}]
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match=r"a.jsonl` must be text in UTF-8"):
        list(beir.json_lines(path))
    packed = gzip.compress(b'{"_id": 1}\n' * 5000)
    for raw in (packed[:-20], packed[:-8] + b"\0" * 8, b"no gzip at all"):
        (tmp_path / "b.jsonl.gz").write_bytes(raw)
        with pytest.raises(ValueError, match=r"must be a whole .gz file; it is cut or damaged"):
            list(beir.json_lines(tmp_path / "b.jsonl"))
    for folder in (tmp_path / "none",):
        folder.mkdir()
        (folder / "corpus.jsonl").write_text('{"_id": null, "text": "a"}\n')
        (folder / "queries.jsonl").write_text("")
        with pytest.raises(ValueError, match="must have `_id`"):
            beir.read(folder, None)


def test_runs_have_finite_scores(tmp_path):
    (tmp_path / "run").write_text("q1 Q0 a 1 nan x\n")
    with pytest.raises(ValueError, match=r"must have lines `query Q0 .* in line 1"):
        trec.read_run(tmp_path / "run")
    with pytest.raises(ValueError, match="`run` must have finite scores; got NaN"):
        trec.write_run(tmp_path / "run", {"q1": {"a": float("inf")}})
