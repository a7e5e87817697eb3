"""Documents from every kind of input, and one sentence for everything else."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae.cache.texts import Documents, next_digest, same_texts

PROSE = "First line,\nsecond line.\n\n\n  \nA new one.\n"


def read(texts: Any, **options: str) -> list[Any]:
    return [
        entry if isinstance(entry, str) else entry.tolist() for entry in Documents(texts, **options)
    ]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("paragraph", ["First line,\nsecond line.", "A new one."]),
        ("line", ["First line,", "second line.", "", "", "  ", "A new one."]),
        ("file", [PROSE.strip()]),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".txt.gz"])
def test_text_files(tmp_path: Path, unit: str, expected: list[str], suffix: str) -> None:
    path = tmp_path / f"prose{suffix}"
    path.write_bytes(gzip.compress(PROSE.encode()) if suffix.endswith("gz") else PROSE.encode())
    for given in (path, str(path), [path], [str(path)]):
        assert read(given, unit=unit) == expected
    assert read([path, path], unit=unit) == expected * 2


def test_a_file_without_empty_lines_is_many_documents(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("word " * 20 + "\n" + ("another line of words\n" * 5000))
    found = read(path)
    assert 9 < len(found) < 20
    assert max(map(len, found)) < 10_100
    assert "\n".join(found).split() == path.read_text().split()


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "a b"}, {"text": None}, "bare", {"input_ids": [4, 5]}, [6, 7], {"text": ""}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert read(path) == ["a b", "", "bare", [4, 5], [6, 7], ""]
    path.write_text("\ufeff" + json.dumps({"body": "b", "text": "t"}))  # as Windows writes it
    assert read(path, column="body") == ["b"]


def test_data_sets_and_token_ids() -> None:
    assert read([{"text": "a"}, {"text": "b"}]) == ["a", "b"]
    assert read(iter([{"text": "a"}])) == ["a"]
    assert read([{"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0]}]) == [[1, 2]]
    assert read([{"tokens": torch.tensor([1, 2])}]) == [[1, 2]]
    assert read([[1, 2], [], (3,)]) == [[1, 2], [], [3]]
    assert read(torch.tensor([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert read(np.array([[1, 2], [3, 4]], dtype=np.uint16)) == [[1, 2], [3, 4]]
    assert read(["one", "two"]) == ["one", "two"]
    assert read([]) == []


def test_a_hugging_face_data_set() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "n": [1, 2]})
    assert read(data) == ["a", "b"]
    assert read(data.to_iterable_dataset()) == ["a", "b"]
    with pytest.raises(TypeError, match=r"Pass one of its entries: \['train'\]"):
        read(datasets.DatasetDict(train=data))


@pytest.mark.parametrize(
    ("texts", "error", "fact"),
    [
        ("just some text", ValueError, "must name files ending in .txt, .*put it in a list"),
        ("missing.txt", FileNotFoundError, "there is no file 'missing.txt'"),
        ([Path("missing.jsonl")], FileNotFoundError, "there is no file 'missing.jsonl'"),
        (["a.txt", "b.txt"], FileNotFoundError, "there is no file 'a.txt'"),
        (3, TypeError, "must be a list of strings, .*; got int"),
        ({"train": ["a"]}, TypeError, r"got dict. Pass one of its entries: \['train'\]"),
        ([3.5], TypeError, "entry 0 of `texts` must be a string, .*; got float"),
        (["a", None], TypeError, "entry 1 of `texts` must be a string"),
        ([[1, 2], [[1], [2, 3]]], TypeError, "entry 1 of `texts` must be a string"),
        ([[1.5]], TypeError, "got list of float64"),
        ([{"text": 3}], TypeError, "column 'text' in entry 0 of `texts` must be a string; got int"),
        ([{"body": "a"}], ValueError, "must have the column 'text'; it has 'body'. Name the right"),
        (torch.zeros(2, 3), TypeError, "got Tensor of float32"),
    ],
)
def test_other_texts_are_refused(texts: Any, error: type[Exception], fact: str) -> None:
    with pytest.raises(error, match=fact):
        read(texts)


def test_a_text_unit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="`text_unit` must be one of 'paragraph', 'line', 'file'"):
        Documents(["a"], unit="page")


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is none"),
        ("bad.txt", b"fine\n\xff\xfe\n", "must be a readable UTF-8 file; line 2 is not"),
        ("far.txt", b"fine\n" * 9999 + b"\xff\n", "a readable UTF-8 file; line 10000 is not"),
        ("deep.jsonl", b"[" * 99999, "line 1 is none"),
        ("bad.txt.gz", b"no gzip at all", "must be a readable UTF-8 file; line 1 is not"),
        ("flip.txt.gz", gzip.compress(b"a b c" * 99)[:12] + b"\xff" * 9, "readable UTF-8 file"),
        ("cut.txt.gz", gzip.compress(bytes(range(64, 91)) * 9999)[:50], "must be a readable UTF-8"),
    ],
)
def test_broken_files_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, fact: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*{fact}"):
        read(tmp_path / name)


def test_the_share_read_grows_to_one(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("some words in a line\n" * 20_000)
    documents = Documents([path, path], unit="line")
    shares = [documents.done for _ in documents]
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[len(shares) // 2] == pytest.approx(0.5, abs=0.05)
    assert shares[-1] == 1
    documents = Documents(["a", "b"])
    assert [documents.done for _ in documents] == [0.5, 1]


def session(texts: list[Any], max_tokens: int | None = None, rows: int = 9) -> dict[str, Any]:
    digest = b""
    for document in Documents(texts):
        digest = next_digest(digest, document)
    options = {"max_tokens": max_tokens}
    return {
        "documents": len(texts), "texts_sha256": digest.hex(), "rows": rows, "options": options
    }  # fmt: skip


def test_texts_are_recognised() -> None:
    texts = ["a", "bc", [1, 2], ""]
    assert same_texts(Documents(texts), session(texts))
    assert not same_texts(Documents(texts[:-1]), session(texts))
    assert not same_texts(Documents([*texts, "more"]), session(texts))
    assert not same_texts(Documents(["ab", "c", [1, 2], ""]), session(texts))
    assert not same_texts(Documents(["a", "bc", [2, 1], ""]), session(texts))
    stopped = session(texts, max_tokens=9)
    assert same_texts(Documents([*texts, "not reached"]), stopped)
    assert not same_texts(Documents(["b", *texts[1:], "not reached"]), stopped)


def test_a_generator_can_be_read_once_only() -> None:
    def generate() -> Iterator[str]:
        yield "a"

    documents = Documents(generate())
    assert not documents.repeatable
    assert not same_texts(documents, session(["a"]))
    assert list(documents) == ["a"]
