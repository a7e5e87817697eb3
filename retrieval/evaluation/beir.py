"""Test collections in the layout of BEIR: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsecode import io

HEADER = "query-id\tcorpus-id\tscore"


@dataclass(frozen=True)
class Collection:
    """Documents, queries and judgments."""

    document_ids: list[str]
    """Ids of the documents, in the order of the file."""

    documents: list[str]
    """Title, a space and text of each, or the text alone where there is no title."""

    query_ids: list[str]
    """Ids of the queries that the split judges, in the order of the file."""

    queries: list[str]
    """Their texts."""

    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Query id -> document id -> grade."""


def read(folder: str | Path, split: str | None = "test") -> Collection:
    """Read a folder in the layout of BEIR; each file may end in .gz.

    Parameters
    ----------
    folder : path
    split : str or None, default="test"
        Name of a file in ``qrels``; only the queries that it judges are returned. None reads all
        queries and no judgments.

    Returns
    -------
    Collection

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a line is not what the layout says; file and line are named.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write(Collection(["d"], ["a text"], ["q"], ["a question"], {"q": {"d": 1}}), folder)
    >>> read(folder).documents
    ['a text']
    """
    folder = Path(folder)
    corpus = [_document(row, place) for row, place in json_lines(folder / "corpus.jsonl")]
    queries = [_pair(row, place) for row, place in json_lines(folder / "queries.jsonl")]
    qrels = {} if split is None else read_qrels(folder / "qrels" / f"{split}.tsv")
    wanted = [(one, text) for one, text in queries if split is None or one in qrels]
    _check_once("corpus.jsonl", [one for one, _ in corpus])
    _check_once("queries.jsonl", [one for one, _ in queries])
    return Collection(
        document_ids=[one for one, _ in corpus],
        documents=[text for _, text in corpus],
        query_ids=[one for one, _ in wanted],
        queries=[text for _, text in wanted],
        qrels=qrels,
    )


def write(collection: Collection, folder: str | Path, split: str = "test") -> None:
    """Write a folder that `read` reads.

    Parameters
    ----------
    collection : Collection
    folder : path
    split : str, default="test"
    """
    folder = Path(folder)
    documents = zip(collection.document_ids, collection.documents, strict=True)
    queries = zip(collection.query_ids, collection.queries, strict=True)
    rows = [{"_id": one, "title": "", "text": text} for one, text in documents]
    _write_lines(folder / "corpus.jsonl", [json.dumps(row) for row in rows])
    asked = [{"_id": one, "text": text} for one, text in queries]
    _write_lines(folder / "queries.jsonl", [json.dumps(row) for row in asked])
    grades = [
        f"{query}\t{one}\t{grade}"
        for query, judged in collection.qrels.items()
        for one, grade in judged.items()
    ]
    _write_lines(folder / "qrels" / f"{split}.tsv", [HEADER, *grades])


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Return the judgments of a .tsv file: query id, document id, grade; or as TREC has them.

    Lines with four fields have the grade in the last and the document in the third. The first line
    may be a header.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, (number, line) in enumerate(lines_of(path)):
        fields = line.split("\t")
        grade = _grade(fields[-1])
        if grade is None and place == 0 and fields[0].lower().startswith(("query", "qid", "topic")):
            continue
        if len(fields) not in (3, 4) or grade is None:
            raise ValueError(
                f"`{path}` must have lines of query id, document id and an integer grade with tabs "
                f"between them; got {line!r} in line {number}."
            )
        add_once(qrels.setdefault(fields[0], {}), fields[-2], grade, path, number)
    return qrels


def add_once(known: dict[str, Any], one: str, value: float, path: str | Path, number: int) -> None:
    """Note what a line says of a document, unless another line has said something else."""
    if known.setdefault(one, value) != value:
        raise ValueError(
            f"`{path}` must say one thing of each document of a query; got {known[one]} and then "
            f"{value} for {one!r}, in line {number}."
        )


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are not empty, also of the file with .gz added."""
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and packed.exists():
        path = packed
    if not path.exists():
        raise FileNotFoundError(f"`{path}` must exist; there is no such file.")
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:  # also with a mark at the start
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise io.CorruptFileError(
            f"`{path}` must be a whole file of UTF-8 text; after line {number}, {error}. "
            "Get it anew."
        ) from None


def json_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a .jsonl file, each with a name of its place for messages."""
    for number, line in lines_of(path):
        place = f"line {number} of `{path}`"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place} must be a JSON object; {error}.") from None
        if not isinstance(row, dict):
            raise ValueError(f"{place} must be a JSON object; got {line[:40]!r}.")
        yield row, place


def _document(row: dict[str, Any], place: str) -> tuple[str, str]:
    one, text = _pair(row, place)
    title = row.get("title") or ""
    return one, f"{title} {text}" if title else text


def _pair(row: dict[str, Any], place: str) -> tuple[str, str]:
    one, text = row.get("_id"), row.get("text")
    if isinstance(one, bool) or not isinstance(one, (str, int)) or not isinstance(text, str):
        raise ValueError(
            f"{place} must have an `_id`, string or int, and a string `text`; got `_id` {one!r} "
            f"and keys {sorted(row)}."
        )
    return str(one), text


def _grade(text: str) -> int | None:
    """Return the integer that a text is, if it is one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def _check_once(name: str, ids: list[str]) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise ValueError(f"`{name}` must have each id once; got {one!r} twice.")
        seen.add(one)


def _write_lines(path: Path, lines: list[str]) -> None:
    io.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
