"""SparseCodes: two layouts behind the same methods, checked against dense matrices."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecode import SparseCodes, topk


def random_codes(n_rows: int, width: int, k: int, *, ragged: bool, seed: int = 0) -> SparseCodes:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(n_rows, width, generator=generator)
    dense[torch.rand(n_rows, width, generator=generator) < 0.3] = 0.0
    codes = topk(dense, k)
    codes = codes.with_values(codes.values.relu())
    return codes.to_ragged() if ragged else codes


layouts = pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])


@layouts
@given(n_rows=st.integers(0, 6), width=st.integers(1, 17), data=st.data())
@settings(max_examples=40, deadline=None)
def test_scipy_and_dense_agree_for_any_shape(ragged, n_rows, width, data):
    k = data.draw(st.integers(1, width))
    codes = random_codes(n_rows, width, k, ragged=ragged, seed=n_rows * 100 + width)
    csr = codes.to_scipy()
    assert csr.shape == (n_rows, width) == codes.shape
    np.testing.assert_array_equal(csr.toarray(), codes.to_dense().numpy())
    assert csr.has_canonical_format
    assert csr.nnz == int(codes.n_active.sum())
    assert SparseCodes.from_scipy(csr) == codes


@layouts
def test_repeated_indices_add(ragged):
    values, indices = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[2, 0, 2]])
    codes = SparseCodes(values, indices, 3)
    codes = codes.to_ragged() if ragged else codes
    assert codes.to_dense().tolist() == [[2.0, 0.0, 5.0]]
    assert codes.to_scipy().toarray().tolist() == [[2.0, 0.0, 5.0]]


@layouts
@pytest.mark.parametrize(
    "rows",
    [
        2,
        -1,
        slice(1, 4),
        slice(None, None, 2),
        [3, 0, 0],
        np.array([1, 4]),
        torch.arange(5) % 2 == 0,
        slice(0, 0),
    ],
    ids=["int", "negative", "slice", "stride", "list", "array", "mask", "empty"],
)
def test_row_selection_is_that_of_the_dense_matrix(ragged, rows):
    codes = random_codes(5, 11, 4, ragged=ragged)
    picked = codes[rows]
    assert torch.equal(picked.to_dense(), codes.to_dense()[rows])


@layouts
def test_leading_axes_are_kept(ragged):
    codes = random_codes(6, 7, 3, ragged=ragged).reshape(2, 3)
    assert codes.shape == (2, 3, 7)
    assert codes.n_rows == 6
    assert len(codes) == 2
    assert codes.n_active.shape == (2, 3)
    assert codes.to_dense().shape == (2, 3, 7)
    assert codes[1].shape == (3, 7)
    assert codes[1, 2].shape == (7,)
    assert torch.equal(codes[:, 1].to_dense(), codes.to_dense()[:, 1])
    assert codes.flatten() == codes.reshape(6)
    with pytest.raises(ValueError, match="`batch_shape` must hold 6 rows"):
        codes.reshape(4)


@layouts
@pytest.mark.parametrize("k", [0, 1, 2, 5, 9])
def test_truncate_keeps_the_largest_of_each_row(ragged, k):
    codes = random_codes(8, 23, 5, ragged=ragged, seed=3)
    expected = codes.to_dense()
    if k < 5:
        cut = expected.sort(dim=1, descending=True).values[:, k : k + 1]
        expected = torch.where(expected > cut, expected, 0.0)
    assert torch.equal(codes.truncate(k).to_dense(), expected)


def test_truncate_breaks_ties_by_id_and_puts_padding_last():
    codes = SparseCodes(torch.tensor([[0.0, -1.0, 2.0, 2.0]]), torch.tensor([[0, 1, 3, 2]]), 4)
    assert codes.truncate(3).indices.tolist() == [[2, 3, 1]]
    assert codes.to_ragged().truncate(1).indices.tolist() == [2]


@layouts
def test_concatenation_is_that_of_the_dense_matrices(ragged):
    first, second = (
        random_codes(3, 9, 2, ragged=ragged),
        random_codes(2, 9, 4, ragged=False, seed=5),
    )
    both = SparseCodes.cat([first, second])
    assert both.is_ragged == ragged
    assert torch.equal(both.to_dense(), torch.cat([first.to_dense(), second.to_dense()]))
    with pytest.raises(ValueError, match=r"`parts` must agree in all but the first axis"):
        SparseCodes.cat([first, random_codes(2, 10, 2, ragged=False)])


def test_equality_ignores_layout_order_and_padding():
    fixed = SparseCodes(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[4, 1, 2]]), 6)
    other = SparseCodes(
        torch.tensor([1.0, 3.0]), torch.tensor([1, 4]), 6, crow=torch.tensor([0, 2])
    )
    assert fixed == other
    assert fixed != SparseCodes(torch.tensor([[3.0, 2.0]]), torch.tensor([[4, 1]]), 6)
    assert fixed != other.to(torch.float64)
    assert fixed != SparseCodes(fixed.values, fixed.indices, 7)
    assert (fixed == 3) is False


@layouts
def test_fixed_and_ragged_convert_into_each_other(ragged):
    codes = random_codes(6, 13, 4, ragged=ragged)
    assert codes.to_ragged() == codes == codes.to_fixed()
    assert codes.to_ragged().is_ragged
    assert not codes.to_fixed().is_ragged


@layouts
def test_values_stay_in_the_autograd_graph(ragged):
    dense = torch.randn(
        4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    codes = topk(dense, 3)
    codes = codes.to_ragged() if ragged else codes
    codes.to_dense().square().sum().backward()
    kept = codes.to_dense() != 0
    assert torch.equal(dense.grad != 0, kept)
    assert torch.equal(dense.grad[kept], 2 * dense.detach()[kept])


@layouts
def test_copies_and_pickles(ragged):
    codes = random_codes(3, 5, 2, ragged=ragged)
    assert pickle.loads(pickle.dumps(codes)) == codes == copy.deepcopy(codes)


def test_half_precision_reaches_scipy_as_float32():
    codes = random_codes(3, 5, 2, ragged=False).to(torch.bfloat16)
    assert codes.to_scipy().dtype == np.float32
    assert codes.indices.dtype == torch.int64


@pytest.mark.parametrize(
    ("build", "error", "sentence"),
    [
        (
            lambda: SparseCodes(torch.ones(2, 2), torch.ones(2, 2), 5),
            TypeError,
            "`indices` must be an integer tensor",
        ),
        (
            lambda: SparseCodes(torch.ones(2, 2), torch.zeros(2, 3).long(), 5),
            ValueError,
            "same shape",
        ),
        (
            lambda: SparseCodes(torch.ones(1, 1), torch.tensor([[5]]), 5),
            ValueError,
            r"lie in \[0, width\) = \[0, 5\)",
        ),
        (
            lambda: SparseCodes(torch.ones(1, 1), torch.tensor([[-1]]), 5),
            ValueError,
            r"lie in \[0, width\)",
        ),
        (lambda: SparseCodes([1.0], [0], 5), TypeError, "must be tensors; got list and list"),
        (
            lambda: SparseCodes(torch.ones(1, 1), torch.zeros(1, 1).long(), -1),
            ValueError,
            "`width` must be an int",
        ),
        (
            lambda: SparseCodes(torch.ones(3), torch.zeros(3).long(), 5, crow=torch.tensor([0, 2])),
            ValueError,
            "`crow` must rise from 0 to nnz = 3",
        ),
        (
            lambda: SparseCodes(
                torch.ones(3), torch.zeros(3).long(), 5, crow=torch.tensor([0, 2, 1, 3])
            ),
            ValueError,
            "`crow` must rise",
        ),
        (lambda: SparseCodes.from_scipy(np.eye(2)), TypeError, "must be a SciPy sparse matrix"),
        (lambda: SparseCodes.cat([]), ValueError, "at least one"),
        (
            lambda: len(SparseCodes(torch.ones(1), torch.zeros(1).long(), 2)),
            TypeError,
            "leading axis",
        ),
    ],
)
def test_bad_input_gets_one_sentence(build, error, sentence):
    with pytest.raises(error, match=sentence):
        build()


def test_arrays_serve_as_parts_and_as_row_ids():
    codes = SparseCodes(np.ones((3, 2)), np.array([[0, 1], [1, 2], [2, 0]]), 3)
    assert codes.dtype == torch.float64
    assert codes[np.array([2, 0], dtype=np.uint8)] == codes[[2, 0]]
    assert codes[np.arange(3)[::-1]] == codes[[2, 1, 0]]
    ragged = SparseCodes(np.ones(2), np.array([0, 2]), 3, crow=np.array([0, 0, 2]))
    assert ragged.n_active.tolist() == [0, 2]


def test_from_scipy_takes_every_sparse_format():
    csr = scipy.sparse.random_array(
        (7, 9), density=0.4, rng=np.random.default_rng(0), dtype=np.float64
    )
    expected = torch.from_numpy(csr.toarray())
    for form in ("csr", "csc", "coo", "lil", "dok"):
        assert torch.equal(SparseCodes.from_scipy(csr.asformat(form)).to_dense(), expected)
