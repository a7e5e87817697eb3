"""Files of other tools: byte for byte, and read again."""

import json
import struct

import numpy as np
import pytest
import scipy.sparse

from retrieval import export
from retrieval.testing import random_rows
from sparsecode.io import CorruptFileError

ROWS = scipy.sparse.csr_matrix(np.array([[0, 1.25, 0.004], [0, 0, 0], [2, 0, 0]], np.float32))


def test_anserini_has_integers_and_seismic_floats(tmp_path):
    export.write_anserini(tmp_path / "a.jsonl", ROWS, ["x", 2, "z"], texts=["t", "", "u"])
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert lines[0] == '{"id": "x", "contents": "t", "vector": {"1": 125}}'
    assert json.loads(lines[1]) == {"id": "2", "contents": "", "vector": {}}
    export.write_seismic(tmp_path / "s.jsonl", ROWS, ["x", "y", "z"], names=["a", "b", "c"])
    first = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
    assert first == {"id": "x", "content": "", "vector": {"b": 1.25, "c": float(np.float32(0.004))}}


def test_bigann_is_its_bytes_and_is_read_again(tmp_path):
    export.write_bigann(tmp_path / "m.csr", ROWS)
    want = struct.pack("<3q4q3i3f", 3, 3, 3, 0, 2, 2, 3, 1, 2, 0, 1.25, 0.004, 2.0)
    assert (tmp_path / "m.csr").read_bytes() == want
    big = random_rows(100, 50, 7, seed=0)
    export.write_bigann(tmp_path / "big.csr", big)
    assert (export.read_bigann(tmp_path / "big.csr") != big).nnz == 0
    (tmp_path / "big.csr").write_bytes((tmp_path / "big.csr").read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=r"big\.csr` must be a whole file"):
        export.read_bigann(tmp_path / "big.csr")
    (tmp_path / "big.csr").write_bytes(b"")
    with pytest.raises(CorruptFileError, match=r"big\.csr` must be a whole file"):
        export.read_bigann(tmp_path / "big.csr")


def test_npz_is_read_by_scipy(tmp_path):
    export.write_npz(tmp_path / "m.npz", ROWS)
    assert (scipy.sparse.load_npz(tmp_path / "m.npz") != ROWS).nnz == 0


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"one item for each of 3 rows; got 1 and 3"):
        export.write_anserini(tmp_path / "a", ROWS, ["x"])
    with pytest.raises(ValueError, match=r"`rows` must have positive weights .*; got -2"):
        export.write_seismic(tmp_path / "a", -ROWS, [1, 2, 3])
    with pytest.raises(ValueError, match=r"`names` must have 3 different names; got 1"):
        export.write_seismic(tmp_path / "a", ROWS, [1, 2, 3], names=["a"])
    assert not (tmp_path / "a").exists()


def test_ids_and_names_are_different(tmp_path):
    rows = random_rows(2, 3, 2, seed=0)
    for write in (export.write_anserini, export.write_seismic):
        with pytest.raises(ValueError, match=r"`ids` must be unique; 2 ids have 1 values"):
            write(tmp_path / "x", rows, ["a", "a"])
        with pytest.raises(ValueError, match=r"3 different names; got 3, of which 2 differ"):
            write(tmp_path / "x", rows, ["a", "b"], names=["t", "t", "u"])


@pytest.mark.parametrize("boundary", [2**60, -1, 5])
def test_boundaries_of_rows_ascend(tmp_path, boundary):
    path = tmp_path / "big.csr"
    export.write_bigann(path, random_rows(2, 3, 2, seed=0))
    raw = bytearray(path.read_bytes())
    raw[32:40] = int(boundary).to_bytes(8, "little", signed=True)
    path.write_bytes(raw)
    with pytest.raises(CorruptFileError, match=r"big\.csr` must be a whole file"):
        export.read_bigann(path)
