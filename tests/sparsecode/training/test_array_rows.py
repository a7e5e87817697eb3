from itertools import islice

import numpy as np
import pytest
import scipy.sparse
import torch

from sparsecode.training.array_rows import ArrayRows, PairedRows


def stream(source, batch_size, n, **keywords):
    return list(islice(source.batches(batch_size, **keywords), n))


def test_every_epoch_holds_every_row_once_in_a_new_order():
    rows = torch.cat(stream(ArrayRows(torch.arange(10.0)[:, None]), 5, 6)).flatten()
    epochs = rows.split(10)
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(10))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


@pytest.mark.parametrize("batch_size", [1, 3, 10, 23])
def test_the_order_of_rows_does_not_depend_on_batches_and_can_be_taken_up_anywhere(batch_size):
    source = ArrayRows(torch.arange(10.0)[:, None])
    whole = torch.cat(stream(source, 1, 46, seed=3))
    assert torch.equal(torch.cat(stream(source, batch_size, 2, seed=3)), whole[: 2 * batch_size])
    for start in (0, 1, 9, 10, 20, 23):
        (batch,) = stream(source, batch_size, 1, seed=3, start_row=start)
        assert torch.equal(batch, whole[start : start + batch_size])


def test_seeds_give_different_orders():
    source = ArrayRows(torch.arange(50.0)[:, None])
    orders = {tuple(stream(source, 50, 1, seed=seed)[0].flatten().tolist()) for seed in range(5)}
    assert len(orders) == 5


def test_the_state_of_torch_is_left_alone():
    before = torch.get_rng_state()
    stream(ArrayRows(torch.zeros(4, 1)), 3, 4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "kind", ["float64", "float16", ">f4", "int32", "bool", "csr", "readonly", "memmap"]
)
def test_arrays_of_all_kinds(kind, tmp_path):
    dense = np.arange(12).reshape(6, 2) % 3
    array = (
        dense.astype(kind)
        if kind in ("float64", "float16", ">f4", "int32", "bool")
        else dense * 1.0
    )
    if kind == "csr":
        array = scipy.sparse.csr_matrix(array)
    elif kind == "readonly":
        array.flags.writeable = False
    elif kind == "memmap":
        np.save(tmp_path / "x.npy", array)
        array = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = ArrayRows(array)
    (batch,) = stream(source, 6, 1)
    assert batch.is_floating_point()
    assert source.rows(2, 4).shape == (2, 2)
    expected = (dense.astype("bool") if kind == "bool" else dense).astype("float64")
    assert torch.equal(source.rows(0, 6).double(), torch.from_numpy(expected))
    assert sorted(batch.double().tolist()) == sorted(expected.tolist())


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros(3), ValueError, r"must have shape \(n_rows, n_features\) .*got \(3,\)"),
        (np.zeros((0, 3)), ValueError, r"at least one row; got \(0, 3\)"),
        (torch.zeros(2, 3, 4), ValueError, r"got \(2, 3, 4\)"),
        ([[1.0]], TypeError, "must be an array"),
        (np.array([["a"]]), TypeError, "real numbers"),
        (np.array([[1j]]), TypeError, "real numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(array, error, message):
    with pytest.raises(error, match=message):
        ArrayRows(array)


def test_pairs_of_rows_stay_together() -> None:
    inputs = torch.arange(10.0)[:, None]
    pairs = PairedRows(ArrayRows(inputs), ArrayRows((inputs * 2).double().numpy()))
    assert pairs.n_features == 2
    assert pairs.rows(2, 4).tolist() == [[2.0, 4.0], [3.0, 6.0]]
    stream = pairs.batches(4, seed=1, start_row=3)
    rows = torch.cat([next(stream) for _ in range(5)])
    assert torch.equal(rows[:, 0] * 2, rows[:, 1])
    alone = ArrayRows(inputs).batches(4, seed=1, start_row=3)
    assert torch.equal(rows[:, :1], torch.cat([next(alone) for _ in range(5)]))
    with pytest.raises(ValueError, match="one row for each of 10 inputs; got 9"):
        PairedRows(ArrayRows(inputs), ArrayRows(inputs[1:]))
