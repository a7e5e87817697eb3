"""Documents from whatever the user has: strings, text and JSONL files, data sets, token ids."""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sparsecode._checks import check_choice

Document = str | np.ndarray  # a text, or its token ids as int64

SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
UNITS = ("paragraph", "line", "file")
_TOKEN_COLUMNS = ("input_ids", "tokens")
_PARAGRAPH_LIMIT = 10_000  # characters; a file without empty lines is still many documents


class Documents:
    """The documents of `texts`, in order; iterating again starts again where the source allows it.

    Parameters
    ----------
    texts : list of str, path, list of paths, data set, or token ids
        Files end in .txt, .jsonl, .txt.gz or .jsonl.gz. A data set is any iterable of dicts, such
        as one of the `datasets` library. Token ids are a list of lists of int or a 2-D integer
        tensor.
    column : str, default="text"
        Key of the text in the rows of a data set or a JSONL file. Rows without it may hold token
        ids under "input_ids" or "tokens".
    unit : {"paragraph", "line", "file"}, default="paragraph"
        What is one document in a .txt file. Paragraphs end at empty lines, and at the end of the
        line that passes 10,000 characters.
    """

    def __init__(self, texts: Any, *, column: str = "text", unit: str = "paragraph") -> None:
        self._column = column
        self._unit = check_choice("text_unit", unit, UNITS)
        self._paths = _paths(texts)
        self._texts = texts
        self._done = 0.0
        if self._paths is None and (isinstance(texts, Mapping) or not isinstance(texts, Iterable)):
            got = type(texts).__name__
            hint = f" Pass one of its entries: {list(texts)}." if isinstance(texts, Mapping) else ""
            raise TypeError(
                "`texts` must be a list of strings, a path or paths, a data set (an iterable of "
                f"dicts) or token ids; got {got}.{hint}"
            )

    def __iter__(self) -> Iterator[Document]:
        if self._paths is not None:
            yield from self._from_files(self._paths)
            return
        total = len(self._texts) if isinstance(self._texts, Sized) else None
        texts: Any = self._texts
        for number, entry in enumerate(texts):
            self._done = (number + 1) / total if total else 0.0
            yield self._document(entry, f"entry {number} of `texts`")

    @property
    def done(self) -> float:
        """Share of the texts that was read so far, in [0, 1]; 0 where it cannot be known."""
        return self._done

    @property
    def repeatable(self) -> bool:
        """Whether the documents can be read more than once; not so for a generator."""
        return not isinstance(self._texts, Iterator)

    def _from_files(self, paths: list[Path]) -> Iterator[Document]:
        total = max(1, sum(path.stat().st_size for path in paths))
        before = 0
        for path in paths:
            read = self._from_json if ".jsonl" in path.name else self._from_text
            yield from read(self._lines(path, before, total), path)
            before += path.stat().st_size

    def _lines(self, path: Path, before: int, total: int) -> Iterator[str]:
        number = 0
        try:
            with path.open("rb") as raw:
                stream: Any = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
                with io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
                    for line in lines:
                        number += 1
                        self._done = (before + raw.tell()) / total
                        yield line
        except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
            if isinstance(error, UnicodeDecodeError):  # it is about many lines at once
                number += error.object[: error.start].count(b"\n")
            raise ValueError(
                f"`{path}` must be a readable UTF-8 file; line {number + 1} is not ({error})."
            ) from None

    def _from_json(self, lines: Iterator[str], path: Path) -> Iterator[Document]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    entry = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise ValueError(
                        f"`{path}` must hold one JSON value on each line; line {number} is none "
                        f"({error})."
                    ) from None
                yield self._document(entry, f"line {number} of `{path}`")

    def _from_text(self, lines: Iterator[str], path: Path) -> Iterator[Document]:
        pending: list[str] = []
        size = 0
        for line in lines:
            if self._unit == "line":
                yield line.rstrip("\r\n")
                continue
            pending.append(line)
            size += len(line)
            if self._unit == "paragraph" and (not line.strip() or size >= _PARAGRAPH_LIMIT):
                text = "".join(pending).strip()
                pending, size = [], 0
                if text:
                    yield text
        if text := "".join(pending).strip():
            yield text

    def _document(self, entry: Any, where: str) -> Document:
        if isinstance(entry, str):
            return entry
        if isinstance(entry, Mapping):
            return self._from_row(entry, where)
        return _token_ids(entry, where)

    def _from_row(self, row: Mapping[str, Any], where: str) -> Document:
        if self._column in row:
            text = row[self._column]
            if text is None or isinstance(text, str):
                return text or ""
            if self._column not in _TOKEN_COLUMNS:
                raise TypeError(
                    f"column {self._column!r} in {where} must be a string; "
                    f"got {type(text).__name__}."
                )
        column = next((name for name in (self._column, *_TOKEN_COLUMNS) if name in row), None)
        if column is None:
            raise ValueError(
                f"{where} must have the column {self._column!r}; it has "
                f"{', '.join(map(repr, row))}. Name the right one with `text_column`."
            )
        ids = _token_ids(row[column], where)
        if "attention_mask" in row:
            ids = ids[np.asarray(row["attention_mask"]).astype(bool)]
        return ids


def same_texts(documents: Documents, session: Mapping[str, Any]) -> bool:
    """Return whether the call that wrote `session` had these documents, as far as is known."""
    if not documents.repeatable:
        return False
    digest, number, more = b"", 0, False
    for number, document in enumerate(documents, 1):
        more = number > session["documents"]
        if more:
            break
        digest = next_digest(digest, document)
    stopped = session["options"]["max_tokens"] == session["rows"]
    return (
        number >= session["documents"]
        and digest.hex() == session["texts_sha256"]
        and (stopped or not more)
    )


def next_digest(digest: bytes, document: Document) -> bytes:
    """Return the digest of a sequence of documents from that of all but the last."""
    if isinstance(document, str):
        data = b"t" + document.encode("utf-8", "surrogatepass")
    else:
        data = b"i" + document.astype("<i8").tobytes()
    return hashlib.sha256(digest + data).digest()


def _paths(texts: Any) -> list[Path] | None:
    """Return the files that `texts` names, or None if it is not paths."""
    if isinstance(texts, (str, Path)):
        return [_checked_path(Path(texts), isinstance(texts, str))]
    if not isinstance(texts, Sequence) or not texts:
        return None
    if any(isinstance(entry, Path) for entry in texts):
        return [_checked_path(Path(entry), False) for entry in texts]
    named = all(
        isinstance(entry, str) and len(entry) < 4096 and entry.endswith(SUFFIXES) for entry in texts
    )
    return [_checked_path(Path(entry), False) for entry in texts] if named else None


def _checked_path(path: Path, maybe_text: bool) -> Path:
    hint = " To pass one text, put it in a list." if maybe_text else ""
    if not path.name.endswith(SUFFIXES):
        shown = str(path) if len(str(path)) < 80 else f"{str(path)[:77]}..."
        raise ValueError(
            f"`texts` must name files ending in {', '.join(SUFFIXES)}; got {shown!r}.{hint}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"`texts` must name existing files; there is no file {str(path)!r}.{hint}"
        )
    return path


def _token_ids(entry: Any, where: str) -> np.ndarray:
    try:
        array = entry.cpu().numpy() if isinstance(entry, Tensor) else np.asarray(entry)
    except ValueError:  # lists of different lengths
        array = np.asarray(entry, dtype=object)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"{where} must be a string, a row of a data set, or a list of token ids; "
            f"got {type(entry).__name__} of {array.dtype} with shape {array.shape}."
        )
    return array.astype(np.int64)
