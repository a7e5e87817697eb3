"""Encoded rows on disk: what is there is kept, what is missing or damaged is encoded again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from retrieval.encoded import Encoded, digest, open_encoded, write

X = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
IDS = [f"d{row}" for row in range(10)]


def positive(rows: np.ndarray) -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(np.maximum(rows, 0))


def written(folder: Path, inputs: Any = X, **changes: Any) -> Encoded:
    options = {"n_features": 4, "rows_per_part": 4, "encoder": "one"}
    return write(changes.pop("encode", positive), inputs, IDS, folder, **options | changes)


def test_rows_come_back(tmp_path: Path) -> None:
    counts: list[int] = []
    done = written(tmp_path, progress=counts.append)
    assert (done.n_rows, done.n_features, done.n_parts, counts) == (10, 4, 3, [4, 4, 2])
    ids, rows = open_encoded(tmp_path).all()
    assert ids == IDS
    np.testing.assert_array_equal(rows.toarray(), np.maximum(X, 0))
    assert [len(part) for part, _ in done.parts()] == [4, 4, 2]


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "json"])
def test_a_part_whose_rows_are_gone_is_encoded_again(tmp_path: Path, damage: str) -> None:
    written(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    part = tmp_path / ("part-000001.json" if damage == "json" else "part-000001.safetensors")
    raw = part.read_bytes()
    if damage == "missing":
        part.unlink()
        with pytest.raises(ValueError, match="must be complete; it has 2 of 3 parts"):
            open_encoded(tmp_path)
    else:
        part.write_bytes(raw[:-5] if damage == "cut" else raw[:-1] + bytes([raw[-1] ^ 1]))
    asked: list[int] = []

    def counted(rows: np.ndarray) -> scipy.sparse.csr_matrix:
        asked.append(len(rows))
        return positive(rows)

    written(tmp_path, encode=counted)
    assert asked == [4]
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_another_job_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "rows")
    with pytest.raises(ValueError, match="the encoder has changed since"):
        written(tmp_path / "rows", encoder="another")
    with pytest.raises(ValueError, match="the same job; inputs differ from those"):
        written(tmp_path / "rows", inputs=X + 1)
    with pytest.raises(ValueError, match="the same job; settings, encoder differ"):
        written(tmp_path / "rows", settings="queries", encoder="another")
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a new or empty folder"):
        written(tmp_path)
    with pytest.raises(ValueError, match="`ids` must have one id for each of 9 inputs; got 10"):
        written(tmp_path / "new", inputs=X[:9])


def test_the_digest_is_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model" / "a").write_text("1")
    first = digest(tmp_path)
    assert digest(str(tmp_path)) == first
    (tmp_path / "model" / "a").write_text("2")
    second = digest(tmp_path)
    (tmp_path / "model" / "a").rename(tmp_path / "model" / "b")
    assert len({first, second, digest(tmp_path)}) == 3
