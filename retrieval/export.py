"""Sparse rows in the files of other tools: Anserini, Seismic, BigANN, npz."""

import json
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from retrieval.index.base import check_rows
from sparsecode import io
from sparsecode._checks import check_float


def write_anserini(
    path: str | Path,
    rows: Any,
    ids: Iterable[Any],
    *,
    scale: float = 100.0,
    texts: Iterable[str] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write JSON vectors with integer weights, one line for each row (JsonVectorCollection).

    A weight becomes ``round(scale * weight)`` and is left out if that is 0, so the error of a
    weight is at most ``1 / (2 * scale)``. Weights must be positive.

    Parameters
    ----------
    path : path
    rows : scipy sparse matrix of shape (N, F)
    ids : iterable of N ids
    scale : float, default=100.0
    texts : iterable of N str, or None, default=None
        Contents; None leaves them empty.
    names : sequence of F str, or None, default=None
        Names of the dimensions; None takes their numbers.
    """
    factor = check_float("scale", scale, low=0, open_low=True)

    def integer(weight: float) -> int:
        return round(factor * weight)

    _write_json_vectors(path, rows, ids, integer, "contents", texts, names)


def write_seismic(
    path: str | Path,
    rows: Any,
    ids: Iterable[Any],
    *,
    texts: Iterable[str] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write JSON vectors with float weights, one line for each row, as Seismic and lsr read them.

    Parameters
    ----------
    path : path
    rows : scipy sparse matrix of shape (N, F)
        Weights positive.
    ids : iterable of N ids
    texts : iterable of N str, or None, default=None
    names : sequence of F str, or None, default=None
    """
    _write_json_vectors(path, rows, ids, float, "content", texts, names)


def write_bigann(path: str | Path, rows: Any) -> None:
    """Write a sparse matrix as the BigANN benchmark has them (``.csr``).

    Little-endian: int64 rows, columns and entries; int64 row boundaries; int32 columns; float32
    values.

    Parameters
    ----------
    path : path
    rows : scipy sparse matrix of shape (N, F)
    """
    matrix = _checked(rows)
    if matrix.shape[1] > 2**31:
        raise ValueError(
            f"`rows` must have at most 2^31 columns for BigANN's int32; got {matrix.shape[1]}."
        )
    with io.atomic_file(path) as file:
        file.write(np.array([*matrix.shape, matrix.nnz], "<i8").tobytes())
        file.write(matrix.indptr.astype("<i8").tobytes())
        file.write(matrix.indices.astype("<i4").tobytes())
        file.write(matrix.data.astype("<f4").tobytes())


def read_bigann(path: str | Path) -> scipy.sparse.csr_matrix:
    """Return the matrix of a file in the form of `write_bigann`.

    Parameters
    ----------
    path : path

    Returns
    -------
    csr_matrix, float32
    """
    raw = Path(path).read_bytes()
    n_rows, n_columns, nnz = np.frombuffer(raw[:24].ljust(24, b"\xff"), "<i8").tolist()
    fits = min(n_rows, n_columns, nnz) >= 0 and len(raw) == 24 + 8 * (n_rows + 1) + 8 * nnz
    parts = np.frombuffer(raw, "<i8", n_rows + 1, 24) if fits else np.zeros(1, np.int64)
    if not fits or parts[0] != 0 or parts[-1] != nnz or (np.diff(parts) < 0).any():
        raise io.CorruptFileError(
            f"`{path}` must be a whole file of BigANN's sparse form; its {len(raw)} bytes do not "
            "fit its header. Restore it from a copy or make it again."
        )
    start = 24 + parts.nbytes
    indices = np.frombuffer(raw, "<i4", nnz, start)
    values = np.frombuffer(raw, "<f4", nnz, start + 4 * nnz)
    matrix = scipy.sparse.csr_matrix((values, indices, parts), shape=(n_rows, n_columns))
    return check_rows("path", matrix, n_columns)


def write_npz(path: str | Path, rows: Any) -> None:
    """Write a file that ``scipy.sparse.load_npz`` reads, whole or not at all.

    Parameters
    ----------
    path : path
        Ending in ``.npz``.
    rows : scipy sparse matrix of shape (N, F)
    """
    buffer = BytesIO()
    scipy.sparse.save_npz(buffer, _checked(rows), compressed=False)
    io.write_bytes(path, buffer.getvalue())


def _checked(rows: Any) -> Any:
    return check_rows("rows", rows, getattr(rows, "shape", (0, 0))[-1])


def _write_json_vectors(
    path: str | Path,
    rows: Any,
    ids: Iterable[Any],
    number: Any,
    content: str,
    texts: Iterable[str] | None,
    names: Sequence[str] | None,
) -> None:
    matrix, known = _checked(rows), [str(one) for one in ids]
    contents = [""] * matrix.shape[0] if texts is None else list(texts)
    if len(known) != matrix.shape[0] or len(contents) != matrix.shape[0]:
        raise ValueError(
            f"`ids` and `texts` must have one item for each of {matrix.shape[0]} rows; "
            f"got {len(known)} and {len(contents)}."
        )
    if len(set(known)) != len(known):
        raise ValueError(f"`ids` must be unique; {len(known)} ids have {len(set(known))} values.")
    if names is not None and (len(names) != matrix.shape[1] or len(set(names)) != len(names)):
        raise ValueError(
            f"`names` must have {matrix.shape[1]} different names; got {len(names)}, of which "
            f"{len(set(names))} differ."
        )
    if matrix.nnz and matrix.data.min() < 0:
        raise ValueError(
            f"`rows` must have positive weights for an index of impacts; got {matrix.data.min():g}."
        )
    with io.atomic_file(path) as file:
        for row, (one, text) in enumerate(zip(known, contents, strict=True)):
            own = slice(matrix.indptr[row], matrix.indptr[row + 1])
            weights = zip(matrix.indices[own].tolist(), matrix.data[own].tolist(), strict=True)
            vector = {
                str(dim) if names is None else names[dim]: number(weight)
                for dim, weight in weights
                if number(weight)
            }
            file.write((json.dumps({"id": one, content: text, "vector": vector}) + "\n").encode())
