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
GRADE_COLUMNS = ("score", "relevance", "rel", "grade", "label")  # how headers call the last one


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
    """Return the judgments of a .tsv file with a header: query id, document id, grade."""
    qrels: dict[str, dict[str, int]] = {}
    is_first = True
    for number, line in lines_of(path):
        fields = line.split("\t")
        grade = _grade(fields[-1])
        is_header = is_first and fields[-1].strip().lower() in GRADE_COLUMNS
        if len(fields) != 3 or (grade is None and not is_header):
            raise ValueError(
                f"`{path}` must have lines of query id, document id and an integer grade with tabs "
                f"between them; got {line!r} in line {number}."
            )
        if grade is not None:
            qrels.setdefault(fields[0], {})[fields[1]] = grade
        is_first = False
    return qrels


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbers and lines of a text file, or of the one with .gz added, without empty ones.

    Raises
    ------
    FileNotFoundError
        If there is neither.
    ValueError
        If it is not UTF-8, or a .gz file that is cut or damaged.
    """
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and packed.exists():
        path = packed
    if not path.exists():
        raise FileNotFoundError(f"`{path}` must exist; there is no such file.")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:  # files of Windows begin with a mark
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"`{path}` must be text in UTF-8; {error.reason}.") from None
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise ValueError(
                f"`{path}` must be a whole .gz file; it is cut or damaged. Fetch it again."
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
    if row.get("_id") is None or not isinstance(row.get("text"), str):
        raise ValueError(f"{place} must have `_id` and a string `text`; got keys {sorted(row)}.")
    return str(row["_id"]), row["text"]


def _grade(text: str) -> int | None:
    """Return a grade, also of "1.0", or None for other texts."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _check_once(name: str, ids: list[str]) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise ValueError(f"`{name}` must have each id once; got {one!r} twice.")
        seen.add(one)


def _write_lines(path: Path, lines: list[str]) -> None:
    io.write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
