"""Collections and runs on disk: what is written is read again; what is wrong is named."""

import gzip

import pytest

from retrieval import beir, trec
from retrieval.evaluation import Collection
from sparsecode.io import CorruptFileError

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
        (
            '{"_id": "x"}',
            r"must have an `_id`, .*; got `_id` 'x' and keys \['_id'\]",
        ),
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


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq\td1\t2\n",
        "query_id\tdoc_id\trelevance\n\nq\td1\t2.0\r\n",
        "\ufeffq\td1\t2\nq\td1\t2\n",
        "q\t0\td1\t2\n",
    ],
)
def test_judgments_as_people_write_them(tmp_path, text):
    path = tmp_path / "dev.tsv"
    path.write_text(text, encoding="utf-8")
    assert beir.read_qrels(path) == {"q": {"d1": 2}}


def test_two_words_on_one_document_are_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("query-id\tcorpus-id\tscore\n\nq\td1\t1\nq\td1\t0\n")
    with pytest.raises(ValueError, match=r"got 1 and then 0 for 'd1', in line 4"):
        beir.read_qrels(path)
    path.write_text("q 0 d1 1\n\nq 0 d1 2\n")
    with pytest.raises(ValueError, match=r"got 1 and then 2 for 'd1', in line 3"):
        trec.read_qrels(path)
    path.write_text("q Q0 d1 1 2.5 tag\nq Q0 d1 2 2.0 tag\n")
    with pytest.raises(ValueError, match=r"got 2\.5 and then 2\.0 for 'd1', in line 2"):
        trec.read_run(path)


@pytest.mark.parametrize("score", ["nan", "inf", "-inf"])
def test_scores_of_a_run_are_finite(tmp_path, score):
    path = tmp_path / "run"
    path.write_text(f"q Q0 d1 1 {score} tag\n")
    with pytest.raises(ValueError, match=r"with finite scores; got .* in line 1"):
        trec.read_run(path)
    with pytest.raises(ValueError, match=r"`run` must have finite scores; got"):
        trec.write_run(path, {"q": {"d1": float(score)}})


def test_files_that_were_cut_or_are_no_text_are_named(tmp_path):
    beir.write(COLLECTION, tmp_path)
    whole = gzip.compress((tmp_path / "corpus.jsonl").read_bytes())
    (tmp_path / "corpus.jsonl").unlink()
    for raw in (whole[:-9], whole[:20] + b"\x00" + whole[21:], b"no gzip"):
        (tmp_path / "corpus.jsonl.gz").write_bytes(raw)
        with pytest.raises(CorruptFileError, match=r"corpus\.jsonl\.gz` must be a whole file"):
            beir.read(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(b'{"_id": "x", "text": "\xff"}')
    with pytest.raises(CorruptFileError, match=r"corpus\.jsonl` must be a whole file of UTF-8"):
        beir.read(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"_id": null, "text": "x"}')
    with pytest.raises(ValueError, match=r"line 1 of .* must have an `_id`, string or int"):
        beir.read(tmp_path)
