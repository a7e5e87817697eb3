"""Scoring: exact against the dense product, bit for bit the same in all implementations."""

import numpy as np
import pytest
import scipy.sparse
import torch

from sparsecode import SparseCodes
from sparsecode.ops.scoring import (
    Postings,
    Queries,
    cpu,
    score_candidates,
    score_rows,
    score_topk,
)

CASES = [
    (1, 1, 1, 1),
    (3, 7, 5, 2),
    (4, 1031, 101, 10),
    (2, 300, 17, 400),
    (3, 50, 11, 0),
    (2, 0, 5, 3),
]
ids = [f"Q{q}-N{n}-F{f}-k{k}" for q, n, f, k in CASES]


@pytest.fixture(params=["sums", "two passes"])
def path(request, monkeypatch):
    """Take the path of few entries, a few queries at a time, or that of many."""
    monkeypatch.setattr(cpu, "SMALL", 2**40 if request.param == "sums" else -1)
    monkeypatch.setattr(cpu, "AT_ONCE", 3 * cpu.SHORT)
    return request.param


def sparse(n, f, *, seed, density=0.2, signed=False, levels=None):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, f)) if signed else rng.random((n, f)) + 0.01
    if levels:
        values = np.ceil(values * levels) / levels
    return scipy.sparse.csr_matrix((values * (rng.random((n, f)) < density)).astype(np.float32))


def expected(queries, documents, k, mask=None):
    """Return scores and rows from dense float64 products."""
    dense = (queries.astype(np.float64) @ documents.astype(np.float64).T).toarray()
    matched = ((queries != 0).astype(np.int64) @ (documents != 0).astype(np.int64).T).toarray() > 0
    matched &= True if mask is None else mask
    scores = np.full((queries.shape[0], k), -np.inf, np.float32)
    rows = np.full(scores.shape, -1)
    for query in range(queries.shape[0]):
        found = np.flatnonzero(matched[query])
        own = dense[query, found].astype(np.float32)
        order = np.argsort(-own, kind="stable")[:k]
        scores[query, : len(order)], rows[query, : len(order)] = own[order], found[order]
    return scores, rows


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("kind", ["positive", "signed", "tied"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_topk_is_that_of_the_dense_product(path, impl, kind, case):
    n_queries, n_documents, width, k = case
    options = {"signed": kind == "signed", "levels": 2 if kind == "tied" else None}
    queries = sparse(n_queries, width, seed=0, **options)
    documents = sparse(n_documents, width, seed=1, **options)
    codes = SparseCodes.from_scipy(queries), SparseCodes.from_scipy(documents)
    scores, rows = score_topk(*codes, k, impl=impl)
    want_scores, want_rows = expected(queries, documents, k)
    np.testing.assert_array_equal(rows.numpy(), want_rows)
    np.testing.assert_allclose(scores.numpy(), want_scores, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("n", [300, 4001, 5003])
def test_the_fast_path_gives_the_bits_of_the_reference(path, dtype, masked, n):
    queries = SparseCodes.from_scipy(sparse(9, 200, seed=2, density=0.1))
    postings = Postings.from_codes(SparseCodes.from_scipy(sparse(n, 200, seed=3)), dtype)
    mask = torch.rand(n, generator=torch.Generator().manual_seed(0)) < 0.01 if masked else None
    want = score_topk(queries, postings, 20, mask=mask, impl="reference")
    got = score_topk(queries, postings, 20, mask=mask, impl="cpu")
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    rows = torch.cat([want[1], torch.full((9, 1), -1), torch.arange(9)[:, None]], 1)
    assert torch.equal(
        score_rows(queries, postings, rows, impl="cpu"),
        score_rows(queries, postings, rows, impl="reference"),
    )
    assert torch.equal(score_rows(queries, postings, want[1]), want[0])


def test_sums_that_float32_gets_wrong_are_ranked_right(path):
    big = 2.0**24
    documents = scipy.sparse.csr_matrix(np.array([[big, 1, 1, 1], [big, 2, 0, 0]], np.float32))
    query = SparseCodes.from_scipy(scipy.sparse.csr_matrix(np.ones((1, 4), np.float32)))
    scores, rows = score_topk(query, SparseCodes.from_scipy(documents), 2, impl="cpu")
    assert rows.tolist() == [[0, 1]]
    assert scores.tolist() == [[big + 4, big + 2]]  # 2^24 + 3 rounds to even


def test_scores_beyond_float32_are_infinite_and_first(path):
    documents = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[1.0, 0], [3e38, 3e38]]))
    query = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[2.0, 2.0]]))
    for impl in ("reference", "cpu"):
        scores, rows = score_topk(query, documents, 2, impl=impl)
        assert rows.tolist() == [[1, 0]]
        assert scores.tolist() == [[torch.inf, 2.0]]


def test_negative_matches_are_results_and_documents_without_a_match_are_not(path):
    documents = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[-1.0, 0], [0, 5], [-3, 0]]))
    query = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[1.0, 0]]))
    for impl in ("reference", "cpu"):
        scores, rows = score_topk(query, documents, 3, impl=impl)
        assert rows.tolist() == [[0, 2, -1]]
        assert scores.tolist() == [[-1.0, -3.0, -torch.inf]]


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
@pytest.mark.parametrize("sign", [1, -1])
def test_values_that_are_held_as_zero_are_a_match(path, dtype, sign):
    documents = scipy.sparse.csr_matrix(np.array([[0, 0, 1], [1e-9, 1, 0]], np.float32))
    query = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[sign * 1e-30, 0, 0]]))
    postings = Postings.from_scipy(documents, dtype)
    for impl in ("reference", "cpu"):
        scores, rows = score_topk(query, postings, 2, impl=impl)
        assert scores.tolist() == [[0.0, -torch.inf]]
        assert rows.tolist() == [[1, -1]]


def test_products_below_float32_are_a_match(path):
    documents = scipy.sparse.csr_matrix(np.array([[0, 1], [1e-30, 0], [-1e-30, 0]], np.float32))
    query = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[1e-30, 0]]))
    for impl in ("reference", "cpu"):
        scores, rows = score_topk(query, SparseCodes.from_scipy(documents), 3, impl=impl)
        assert scores.tolist() == [[0.0, 0.0, -torch.inf]]
        assert rows.tolist() == [[1, 2, -1]]


def test_long_lists_are_found_whole_or_by_look_ups():
    documents = sparse(20_000, 40, seed=8, density=0.5)
    query = SparseCodes.from_scipy(sparse(1, 40, seed=9, density=0.5))
    postings = Postings.from_scipy(documents)
    want = score_topk(query, postings, 2000, impl="reference")
    for k in (1, 2000):
        rows = want[1][:, :k]
        assert torch.equal(score_rows(query, postings, rows, impl="cpu"), want[0][:, :k])


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_candidates_are_the_first_of_the_shorter_query_with_exact_scores(dtype, monkeypatch):
    documents = sparse(3000, 200, seed=3)
    queries = Queries.from_codes(SparseCodes.from_scipy(sparse(6, 200, seed=2, density=0.1)))
    heaviest, postings = queries.heaviest(4), Postings.from_scipy(documents, dtype)
    mask = np.arange(3000) % 3 > 0
    scores, rows = score_candidates(queries, heaviest, postings, 30, mask)
    for query in range(6):
        found = rows[query][rows[query] >= 0]
        best = score_topk(heaviest, postings, len(found), mask=torch.from_numpy(mask))[1]
        assert 30 <= len(found) <= 60
        assert set(found.tolist()) == set(best[query].tolist())
    want = score_rows(queries, postings, torch.from_numpy(rows))
    np.testing.assert_array_equal(scores, want.numpy())
    monkeypatch.setattr(cpu, "csc_matvec", None)
    slow = score_candidates(queries, heaviest, postings, 30, mask)
    for a, b in zip(slow[1], rows, strict=True):
        assert set(a.tolist()) <= set(b.tolist())


def test_the_heaviest_entries_are_by_size_and_ties_go_to_the_lower_dimension():
    rows = scipy.sparse.csr_matrix([[1.0, -3, 0, 3, 2], [0, 0, 0, 0, 0], [0, 5, 0, 0, 0]])
    short = Queries.from_codes(SparseCodes.from_scipy(rows)).heaviest(2)
    assert short.dims.tolist() == [1, 3, 1]
    assert short.values.tolist() == [-3.0, 3.0, 5.0]
    assert short.crow == [0, 2, 2, 3]


def test_products_that_cancel_are_a_match(path):
    documents = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[0.0, 0, 1], [1, -1, 0]]))
    query = SparseCodes.from_scipy(scipy.sparse.csr_matrix([[1.0, 1, 0]]))
    assert score_topk(query, documents, 2, impl="cpu")[1].tolist() == [[1, -1]]
    assert score_topk(query, documents, 2, impl="reference")[1].tolist() == [[1, -1]]


def test_the_error_of_uint8_is_within_its_bound():
    queries, documents = sparse(5, 300, seed=4), sparse(400, 300, seed=5)
    exact, held = (
        Postings.from_scipy(documents, dtype).to_scipy() for dtype in ("float32", "uint8")
    )
    half_step = documents.max(axis=1).toarray() / 510
    assert (abs(held - exact).max(axis=1).toarray() <= half_step * 1.0001).all()
    error = abs((queries @ exact.T - queries @ held.T).toarray())
    assert (error <= 1.0001 * queries.sum(axis=1).A1[:, None] * half_step.T).all()
    assert error.max() > 0


def test_values_are_held_as_asked():
    documents = sparse(40, 30, seed=6)
    for dtype, size in (("float32", 4), ("float16", 2), ("uint8", 1)):
        postings = Postings.from_scipy(documents, dtype)
        assert postings.dtype == dtype
        assert postings.values.element_size() == size
        again = Postings.from_stored(
            postings.stored_rows(),
            dtype,
            None if postings.scales is None else postings.scales.numpy(),
        )
        assert torch.equal(again.values, postings.values)
        assert torch.equal(again.documents, postings.documents)


def test_zeros_are_left_out_and_repeated_entries_add_up():
    codes = SparseCodes(torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1, 1, 0]]), 2)
    postings = Postings.from_codes(codes)
    assert postings.values.tolist() == [3.0]
    assert score_topk(codes, postings, 1)[0].tolist() == [[9.0]]


def test_what_cannot_be_held_is_refused():
    matrix = scipy.sparse.csr_matrix
    with pytest.raises(ValueError, match=r"`codes` must be finite in float32; got nan in row 1\."):
        Postings.from_scipy(matrix([[1.0, 0], [0, np.nan]]))
    with pytest.raises(ValueError, match="not be negative to be held as uint8; got -1"):
        Postings.from_scipy(matrix([[-1.0]]), "uint8")
    with pytest.raises(ValueError, match=r"at most 65504 .* got 70000. Use float32"):
        Postings.from_scipy(matrix([[7e4]]), "float16")
    with pytest.raises(ValueError, match="`dtype` must be one of 'float32'"):
        Postings.from_scipy(matrix([[1.0]]), "int4")


def test_wrong_arguments_are_refused():
    codes = SparseCodes.from_scipy(sparse(2, 5, seed=0, density=1.0))
    bad = codes.with_values(codes.values.clone().index_fill_(0, torch.tensor([7]), torch.nan))
    with pytest.raises(ValueError, match=r"`queries` must be finite in float32; got nan in row 1"):
        score_topk(bad, codes, 1)
    with pytest.raises(ValueError, match=r"shape \(n_queries, width\) = \(any, 4\); got \(2, 5\)"):
        score_topk(codes, SparseCodes.from_scipy(sparse(3, 4, seed=0)), 1)
    with pytest.raises(ValueError, match=r"`mask` must be a bool tensor of shape .* = \(2,\)"):
        score_topk(codes, codes, 1, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"`rows` must lie in \[-1, n_documents\) = \[-1, 2\)"):
        score_rows(codes, codes, torch.tensor([[2], [0]]))
    with pytest.raises(ValueError, match=r"`rows` must be an int64 tensor of shape"):
        score_rows(codes, codes, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="`documents` must be Postings or a SparseCodes; got list"):
        score_topk(codes, [], 1)
    with pytest.raises(TypeError, match="`queries` must be a SparseCodes; got list"):
        score_topk([], codes, 1)
    with pytest.raises(NotImplementedError, match="there is no such implementation"):
        score_topk(codes, codes, 1, impl="triton")


def test_without_the_compiled_loop_the_reference_runs(monkeypatch):
    monkeypatch.setattr(cpu, "csc_matvec", None)
    codes = SparseCodes.from_scipy(sparse(2, 5, seed=0, density=1.0))
    want = score_topk(codes, codes, 1, impl="reference")
    assert torch.equal(score_topk(codes, codes, 1)[0], want[0])
    with pytest.raises(NotImplementedError, match="this SciPy has no csc_matvec"):
        score_topk(codes, codes, 1, impl="cpu")
