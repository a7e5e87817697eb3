"""What the commands read: BEIR folders, JSONL, npy and parquet files, encoders, judgments."""

import importlib
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.encoded import digest
from retrieval.evaluation import beir, trec

ID_KEYS, TEXT_KEYS = ("_id", "id", "docid"), ("text", "contents", "content")


def read_inputs(path: Path, *, queries: bool, split: str | None) -> tuple[list[str], Any]:
    """Return ids and what an encoder takes: texts, or embeddings as a memory-mapped array.

    Parameters
    ----------
    path : Path
        Folder in the layout of BEIR, or a .jsonl (also .gz), .npy or .parquet file.
    queries : bool
        Whether to take the queries of a BEIR folder.
    split : str or None
        Whose queries; None for all.

    Returns
    -------
    tuple
    """
    if not path.exists():
        raise FileNotFoundError(f"`{path}` must exist; there is no such file or folder.")
    ids, inputs = _read(path, queries=queries, split=split)
    if not ids:
        raise ValueError(f"`{path}` must have at least one row to encode; it has none.")
    if len(set(ids)) < len(ids):
        twice = next(one for one, count in Counter(ids).items() if count > 1)
        raise ValueError(f"`{path}` must have each id once; got {twice!r} several times.")
    return ids, inputs


def _read(path: Path, *, queries: bool, split: str | None) -> tuple[list[str], Any]:
    if path.is_dir():
        if queries:
            found = beir.read(path, split)
            return found.query_ids, found.queries
        found = beir.read(path, None)
        return found.document_ids, found.documents
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _json_texts(path)
    if name.endswith(".npy"):
        return _array(np.load(path, mmap_mode="r", allow_pickle=False), path)
    if name.endswith(".parquet"):
        return _parquet(path)
    raise ValueError(
        f"`{path}` must be a BEIR folder, or a .jsonl, .jsonl.gz, .npy or .parquet file."
    )


def read_encoder(name: str) -> Any:
    """Return an encoder: from the folder that its `save` wrote, or a Python object.

    Parameters
    ----------
    name : str
        A folder, or ``module:object`` as in Python; the module may be in the current folder.

    Returns
    -------
    object
    """
    if Path(name).is_dir():
        from retrieval.encoders.files import load_encoder

        return load_encoder(name)
    module, colon, attribute = name.partition(":")
    if not colon:
        raise FileNotFoundError(
            f"`{name}` must be the folder of an encoder, or module:object; there is no such folder."
        )
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise ValueError(f"`{module}` must have `{attribute}`; it does not.") from None
    finally:
        sys.path.pop(0)


def encoder_identity(name: str, encoder: Any) -> str:
    """Return what tells an encoder from others: the digest of its folder.

    Of a Python object it is the name and what it prints as, without its address: of most objects
    that does not tell whether what they have learned is still the same.

    Parameters
    ----------
    name : str
        As of `read_encoder`.
    encoder : object

    Returns
    -------
    str
    """
    if Path(name).is_dir():
        return digest(name)
    return f"{name} {re.sub(' at 0x[0-9a-f]+', '', repr(encoder))}"


def read_qrels(path: Path, split: str) -> dict[str, dict[str, int]]:
    """Return judgments: of a BEIR folder, a .tsv file, or a file of TREC.

    Parameters
    ----------
    path : Path
    split : str
        Of a BEIR folder.

    Returns
    -------
    dict
    """
    if path.is_dir():
        return beir.read_qrels(path / "qrels" / f"{split}.tsv")
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return beir.read_qrels(path)
    return trec.read_qrels(path)


def _json_texts(path: Path) -> tuple[list[str], list[str]]:
    ids, texts = [], []
    for row, place in beir.json_lines(path):
        one, text = (
            next((row[key] for key in keys if key in row), None) for keys in (ID_KEYS, TEXT_KEYS)
        )
        if one is None or not isinstance(text, str):
            raise ValueError(
                f"{place} must have an id ({', '.join(ID_KEYS)}) and a string "
                f"({', '.join(TEXT_KEYS)}); got keys {sorted(row)}."
            )
        ids.append(str(one))
        texts.append(f"{row['title']} {text}" if row.get("title") else text)
    return ids, texts


def _array(array: np.ndarray, path: Path) -> tuple[list[str], np.ndarray]:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(
            f"`{path}` must hold a floating array of shape (rows, features); "
            f"got {array.dtype} of shape {array.shape}."
        )
    return [str(row) for row in range(len(array))], array


def _parquet(path: Path) -> tuple[list[str], Any]:
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise ImportError(
            "Reading parquet needs pyarrow. Install it with pip install 'sparsecode[data]'."
        ) from None
    table = pq.read_table(path)
    columns = table.column_names
    text = next((key for key in TEXT_KEYS if key in columns), None)
    if text is None and "embedding" not in columns:
        raise ValueError(
            f"`{path}` must have a column of {', '.join(TEXT_KEYS)} or embedding; got {columns}."
        )
    key = next((key for key in ID_KEYS if key in columns), None)
    missing = [one for one in (key, text) if one is not None and table[one].null_count]
    if missing:
        raise ValueError(f"`{path}` must have no empty cell in {', '.join(missing)}; it has some.")
    ids = range(table.num_rows) if key is None else table[key].to_pylist()
    if text is None:
        return [str(one) for one in ids], _embeddings(table["embedding"], path)
    texts = [str(one) for one in table[text].to_pylist()]
    if "title" in columns:
        pairs = zip(table["title"].to_pylist(), texts, strict=True)
        texts = [f"{title} {one}" if title else one for title, one in pairs]
    return [str(one) for one in ids], texts


def _embeddings(column: Any, path: Path) -> np.ndarray:
    """Return a column of equally long lists of numbers as a matrix."""
    import pyarrow.compute

    compute: Any = pyarrow.compute
    flat = column.combine_chunks().flatten()
    lengths = set(compute.list_value_length(column).to_pylist())
    if len(lengths) > 1 or None in lengths or flat.null_count:
        raise ValueError(
            f"`{path}` must have embeddings of equal length without gaps; got lengths "
            f"{', '.join(map(str, sorted(lengths, key=str)[:5]))}."
        )
    rows = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return rows.reshape(len(column), -1)
