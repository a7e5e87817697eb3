"""Arrays, tensors, files and sparse matrices behave like a cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import sae.cache
from sae.cache import AbstractSource, ArraySource, Cache, as_source

ROWS = np.random.default_rng(0).standard_normal((257, 12)).astype(np.float32)


def npy(folder: Path, rows: np.ndarray = ROWS) -> Path:
    np.save(folder / "rows.npy", rows)
    return folder / "rows.npy"


KINDS: dict[str, Callable[[Path], Any]] = {
    "array": lambda _: ROWS,
    "float64 array": lambda _: ROWS.astype(np.float64),
    "float16 array": lambda _: ROWS.astype(np.float16),
    "fortran array": lambda _: np.asfortranarray(ROWS),
    "strided array": lambda _: np.repeat(ROWS, 2, axis=0)[::2],
    "array of the other byte order": lambda _: ROWS.astype(ROWS.dtype.newbyteorder()),
    "float64 array of the other byte order": lambda _: ROWS.astype(">f8"),
    "backward array": lambda _: ROWS[::-1, ::-1].copy()[::-1, ::-1],
    "read-only array": lambda _: np.frombuffer(ROWS.tobytes(), dtype="f4").reshape(ROWS.shape),
    "tensor": lambda _: torch.from_numpy(ROWS),
    "bfloat16 tensor": lambda _: torch.from_numpy(ROWS).bfloat16(),
    "tensor with gradient": lambda _: torch.from_numpy(ROWS).clone().requires_grad_(),
    "transposed tensor": lambda _: torch.from_numpy(ROWS.T.copy()).T,
    "npy": npy,
    "npy by name": lambda folder: str(npy(folder)),
    "npy of the other byte order": lambda folder: npy(folder, ROWS.astype(">f4")),
    "npy in fortran order": lambda folder: npy(folder, np.asfortranarray(ROWS)),
    "csr": lambda _: scipy.sparse.csr_array(ROWS),
    "csc": lambda _: scipy.sparse.csc_matrix(ROWS),
}


@pytest.fixture(params=KINDS, ids=[name.replace(" ", "-") for name in KINDS])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractSource:
    return as_source(KINDS[request.param](tmp_path))


def test_every_kind_gives_the_same_rows(source: AbstractSource) -> None:
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(source.dtype, 0)
    expected = torch.from_numpy(ROWS)
    assert (source.n_rows, source.n_features, len(source)) == (257, 12, 257)
    rows = source.rows(0, 257)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, expected, rtol=tolerance, atol=0)
    assert torch.equal(source.take([256, 3, 3]), rows[[256, 3, 3]])
    stored = source.rows(5, 9, dtype=None)
    assert stored.dtype == source.dtype
    exact = source.rows(0, 257, dtype=torch.float64)
    torch.testing.assert_close(source.mean, exact.mean(0), rtol=1e-12, atol=1e-15)
    assert source.statistics.rows == 257
    shuffled = torch.cat(list(source.batches(100, epochs=1, seed=4)))
    assert not torch.equal(shuffled, rows)
    assert torch.equal(shuffled.sort(0).values, rows.sort(0).values)
    resumed = torch.cat(list(source.batches(64, epochs=1, seed=4, start_row=30)))
    assert torch.equal(resumed, shuffled[30:])


def test_splits_cover_all_rows_once(source: AbstractSource) -> None:
    train, heldout = (as_source(source, split=split) for split in ("train", "heldout"))
    assert (train.split, heldout.split) == ("train", "heldout")
    assert train.n_rows + heldout.n_rows == 257
    assert 5 < heldout.n_rows < 60
    both = torch.cat([side.rows(0, side.n_rows) for side in (train, heldout)])
    assert torch.equal(both.sort(0).values, source.rows(0, 257).sort(0).values)
    assert torch.equal(train.mean, source.mean)
    assert len({train.fingerprint, heldout.fingerprint, source.fingerprint}) == 3


@pytest.mark.parametrize("row", [0, 1, 4998, 4999])
def test_a_change_of_any_value_changes_the_fingerprint(row: int) -> None:
    rows = np.random.default_rng(1).standard_normal((5000, 3))
    before = [as_source(kind(rows)).fingerprint for kind in (np.array, scipy.sparse.csr_array)]
    rows[row, 1] += 1e-12
    after = [as_source(kind(rows)).fingerprint for kind in (np.array, scipy.sparse.csr_array)]
    assert len({*before, *after}) == 4


def test_the_fingerprint_does_not_depend_on_the_layout() -> None:
    same = [ROWS, ROWS.astype(">f4"), np.asfortranarray(ROWS), torch.from_numpy(ROWS.T.copy()).T]
    assert len({as_source(rows).fingerprint for rows in same}) == 1
    pairs = scipy.sparse.coo_array(ROWS)
    shuffled = np.random.default_rng(0).permutation(pairs.nnz)
    again = (pairs.data[shuffled], (pairs.row[shuffled], pairs.col[shuffled]))
    other = scipy.sparse.coo_array(again, shape=ROWS.shape)
    assert as_source(pairs).fingerprint == as_source(other).fingerprint


def test_the_fingerprint_of_large_data_covers_evenly_spread_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sae.cache.sources._BLOCK_BYTES", 4 * ROWS[0].nbytes)
    monkeypatch.setattr("sae.cache.sources._HASHED_BYTES", ROWS.nbytes // 8)

    def changed(row: int) -> str:
        rows = ROWS.copy()
        rows[row] += 1
        return as_source(rows).fingerprint

    covered = sum(changed(row) != as_source(ROWS).fingerprint for row in range(0, 257, 4))
    assert covered == 8
    assert changed(0) != as_source(ROWS).fingerprint != changed(256)


def test_fingerprints_tell_data_apart() -> None:
    other = ROWS.copy()
    other[100, 3] += 1
    prints = {as_source(rows).fingerprint for rows in (ROWS, other, ROWS[:-1], ROWS.astype("f8"))}
    assert len(prints) == 4
    assert as_source(ROWS).fingerprint == as_source(torch.from_numpy(ROWS)).fingerprint


@pytest.mark.parametrize("n_rows", [2, 3, 10, 50])
def test_both_sides_of_a_split_have_rows(n_rows: int) -> None:
    for fraction in (0.01, 0.5, 0.99):
        sides = [
            as_source(ROWS[:n_rows], split=split, heldout_fraction=fraction).n_rows
            for split in ("train", "heldout")
        ]
        assert min(sides) >= 1
        assert sum(sides) == n_rows


def test_nothing_held_out_is_all_rows_in_training() -> None:
    for rows in (ROWS, ROWS[:1]):
        assert as_source(rows, split="train", heldout_fraction=0).n_rows == len(rows)
    with pytest.raises(ValueError, match=r"`heldout_fraction` must be .* in \(0, 1\]; got 0"):
        as_source(ROWS, split="heldout", heldout_fraction=0)
    with pytest.raises(ValueError, match=r"at least 2 rows to be split; .* heldout_fraction=0"):
        as_source(ROWS[:1], split="train")


def test_consecutive_rows_are_held_out_together() -> None:
    rows = np.arange(100_000, dtype=np.float32)[:, None]
    heldout = as_source(rows, split="heldout").rows(0, 64)
    assert torch.equal(heldout.flatten(), heldout[0] + torch.arange(64.0))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.cache.sources._BLOCK_BYTES", 5 * ROWS[0].nbytes)
    source = as_source(ROWS, split="train")
    assert len(source._ends) == 52
    assert torch.equal(
        source.rows(3, 99), as_source(torch.from_numpy(ROWS), split="train").rows(3, 99)
    )
    assert sum(map(len, source.batches(10, epochs=1, window_bytes=1000))) == source.n_rows


def test_a_cache_by_path_or_opened(write: Callable[..., Cache]) -> None:
    cache = write(hookpoints="encoder.layer.0")
    assert as_source(cache) is cache
    for source in (as_source(cache.path), as_source(str(cache.path))):
        assert torch.equal(source.rows(0, 9), cache.rows(0, 9))
    heldout = as_source(cache, split="heldout", heldout_fraction=0.3)
    assert heldout.n_rows == as_source(cache.path, split="heldout", heldout_fraction=0.3).n_rows
    assert as_source(heldout) is heldout
    several = write(out=cache.path.with_name("several"))
    assert as_source(several.path, hookpoint="encoder.layer.1").n_rows == several.n_rows
    with pytest.raises(ValueError, match="`hookpoint` must be named"):
        as_source(several.path)


def spoilt(value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[[41, 200], 5] = value
    return rows


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "kind", [np.asarray, torch.from_numpy, scipy.sparse.csr_array], ids=["array", "tensor", "csr"]
)
def test_rows_that_are_not_finite_are_refused_at_once(
    kind: Callable[..., Any], value: float
) -> None:
    with pytest.raises(ValueError, match=r"`data` must be finite; .* first in row 41"):
        as_source(kind(spoilt(value)))


def test_a_mapped_file_is_checked_where_it_is_read(tmp_path: Path) -> None:
    source = as_source(npy(tmp_path, spoilt(np.nan)))
    assert isinstance(source.matrix, np.memmap)
    for read in (lambda: source.rows(0, 1), lambda: next(source.batches(4))):
        with pytest.raises(ValueError, match=r"`data` must be finite; .* first in row 41"):
            read()


@pytest.mark.parametrize(
    ("data", "error", "fact"),
    [
        (
            ROWS[0],
            ValueError,
            r"must have shape \(rows, n_features\), each at least 1; got \(12,\)",
        ),
        (ROWS[:0], ValueError, r"got \(0, 12\)"),
        (torch.zeros(2, 3, 4), ValueError, r"got \(2, 3, 4\)"),
        (np.ones((3, 2), dtype=np.int32), TypeError, r"must be floating \(.*\); got dtype int32"),
        (torch.ones(3, 2, dtype=torch.bool), TypeError, r"must be floating \(.*\); got dtype bool"),
        (scipy.sparse.csr_array(np.eye(3, dtype=np.int64)), TypeError, "got dtype int64"),
        (np.array([["a"]]), TypeError, r"must be floating \(.*\); got dtype <U1"),
        (ROWS.astype(np.longdouble), TypeError, "got dtype .*float"),
        (ROWS.astype(complex), TypeError, "got dtype complex128"),
        (np.ones((3, 2), dtype=">i2"), TypeError, "got dtype >i2"),
        (np.ma.masked_invalid(ROWS), TypeError, "without a mask .*; got MaskedArray"),
        (torch.eye(3).to_sparse(), TypeError, "a dense tensor, .*of layout sparse_coo"),
        (torch.eye(3).to(torch.float8_e5m2), TypeError, "got dtype float8_e5m2"),
        ([[1.0, 2.0]], TypeError, "or a scipy sparse matrix; got list"),
        (None, TypeError, "got NoneType"),
        ("nowhere", FileNotFoundError, "must be the folder of a cache .*'nowhere' is neither"),
        ("nowhere.npy", FileNotFoundError, "there is no file 'nowhere.npy'"),
        ("some.npz", ValueError, "must be a .npy file with one array"),
    ],
)
def test_other_data_are_refused(data: Any, error: type[Exception], fact: str) -> None:
    with pytest.raises(error, match=f"`data` .*{fact}"):
        as_source(data)


def test_the_width_is_checked(source: AbstractSource) -> None:
    assert as_source(source, n_features=12).n_features == 12
    with pytest.raises(ValueError, match=r"\(rows, n_features\) = \(any, 13\); got \(257, 12\)"):
        as_source(source, n_features=13)


def test_broken_npy_files_are_refused_by_name(tmp_path: Path) -> None:
    path = npy(tmp_path)
    data = path.read_bytes()
    for broken in (data[:-1], data[:40], b"", b"no numpy file at all", b"\x93NUMPY" + data[7:]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"rows.npy` must be a complete \.npy file"):
            as_source(path)
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"rows.npy` must be a complete \.npy file of numbers"):
        as_source(path)


def test_a_source_says_what_it_is() -> None:
    assert repr(as_source(ROWS)) == "ArraySource(ndarray: 257 rows of 12 float32)"
    assert isinstance(as_source(torch.zeros(3, 2), split="train"), ArraySource)
    assert sae.cache.as_source is as_source
