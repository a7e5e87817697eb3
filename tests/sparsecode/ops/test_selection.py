"""Selections: one total order, whatever the implementation, the shape, ties, NaN and infinities."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecode import batch_topk, group_max, topk
from sparsecode.ops.selection import cpu

SHAPES = [(1, 1), (3, 7), (5, 320), (4, 385), (7, 1009), (3, 4096), (2, 20001)]
KS = [1, 2, 13, 32, 64]


def by_definition(row: list[float], k: int) -> list[int]:
    """Sort ids by descending float32 value, NaN as -inf, then by id: the specification."""
    key = [-math.inf if math.isnan(value) else value for value in row]
    return sorted(range(len(row)), key=lambda i: (-key[i], i))[:k]


def rows_of(kind: str, n_rows: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(n_rows, width, generator=generator)
    if kind == "relu":
        return x.relu()
    if kind == "ties":
        return (2 * x).round()
    if kind == "equal":
        return torch.full_like(x, 2.5)
    if kind == "zeros":
        return torch.where(x > 0, 0.0, -0.0)
    if kind == "nan":
        x[torch.rand(x.shape, generator=generator) < 0.2] = math.nan
        x[0] = math.nan
        x[-1, -1] = math.inf
        x[:, 0] = -math.inf
        x[-1, width // 2] = -torch.tensor(math.nan)
        return x
    if kind == "ascending":
        return torch.arange(n_rows * width, dtype=torch.float32).reshape(n_rows, width)
    if kind == "descending":
        return -torch.arange(n_rows * width, dtype=torch.float32).reshape(n_rows, width)
    if kind == "one_group":  # all winners in one of the strided groups of the fast path
        x[:, :: max(1, width // cpu.GROUP)] += 100.0
        return x
    if kind == "bfloat16":
        return x.bfloat16()
    return x


KINDS = [
    "random",
    "relu",
    "ties",
    "equal",
    "zeros",
    "nan",
    "ascending",
    "descending",
    "one_group",
    "bfloat16",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_selection_equals_the_definition(kind, shape):
    x = rows_of(kind, *shape)
    for k in sorted({min(k, shape[1]) for k in KS} | {shape[1] if shape[1] < 2000 else 1}):
        fast, slow = topk(x, k, impl="cpu"), topk(x, k, impl="reference")
        expected = [by_definition(row, k) for row in x.float().tolist()]
        assert slow.indices.tolist() == expected
        assert fast.indices.tolist() == expected
        assert torch.equal(fast.values, slow.values)
        assert fast.values.dtype == x.dtype
        assert cpu.topk_columns(x.float().t().contiguous(), k)[1].tolist() == expected


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=6, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 6),
)
@settings(max_examples=200, deadline=None)
def test_any_floats_follow_the_definition(rows, k):
    x = torch.tensor(rows, dtype=torch.float32)
    expected = [by_definition(row, k) for row in x.tolist()]
    assert topk(x, k, impl="cpu").indices.tolist() == expected
    assert topk(x, k, impl="reference").indices.tolist() == expected


def test_float64_ranks_by_its_float32_value():
    x = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 + 1e-3]], dtype=torch.float64)
    assert topk(x, 3).indices.tolist() == [[2, 0, 1]]


def test_public_topk_leaves_ties_open_and_ours_does_not():
    """torch.topk returns whichever of equal entries it met; ours are the lowest ids, in order."""
    x = torch.zeros(1, 5000)
    assert topk(x, 50).indices.tolist() == [list(range(50))]
    assert torch.topk(x, 50).indices.tolist() != [list(range(50))]


@pytest.mark.parametrize("impl", ["cpu", "triton", "reference"])
def test_topk_gradient_goes_to_the_chosen_entries(impl):
    x = torch.randn(4, 700, generator=torch.Generator().manual_seed(0), requires_grad=True)
    codes = topk(x, 9, impl=impl)
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    (codes.values * weight).sum().backward()
    expected = torch.zeros(4, 700).scatter(1, codes.indices, weight)
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("impl", ["cpu", "triton", "reference"])
def test_a_nan_that_must_be_taken_gives_zero_and_gets_no_gradient(impl):
    x = torch.tensor([[math.nan, 1.0, math.nan]], requires_grad=True)
    codes = topk(x, 2, impl=impl)
    assert codes.values.tolist() == [[1.0, 0.0]]
    assert codes.indices.tolist() == [[1, 0]]
    codes.values.sum().backward()
    assert x.grad.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("impl", ["auto", "cpu", "triton", "reference"])
def test_leading_axes_and_strides_do_not_matter(impl):
    x = torch.randn(700, 3, 2, generator=torch.Generator().manual_seed(0)).permute(2, 1, 0)
    codes = topk(x, 5, impl=impl)
    assert codes.shape == (2, 3, 700)
    assert torch.equal(
        codes.indices.reshape(6, 5), topk(x.reshape(6, 700), 5, impl="reference").indices
    )
    assert topk(x[:, :0], 5, impl=impl).shape == (2, 0, 700)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "k"), [((6, 40), 3), ((6, 40), 2.5), ((2, 3, 701), 4), ((1, 333), 33), ((5, 8), 8)]
)
def test_batch_topk_equals_the_definition(kind, shape, k):
    x = rows_of(kind, math.prod(shape[:-1]), shape[-1]).reshape(shape)
    fast, slow = batch_topk(x, k, impl="cpu"), batch_topk(x, k, impl="reference")
    n_rows, total = math.prod(shape[:-1]), int(k * math.prod(shape[:-1]))
    chosen = by_definition(x.float().flatten().tolist(), total)
    expected = sorted(divmod(flat, shape[-1]) for flat in chosen)
    for codes in (fast, slow):
        assert (
            sorted(zip(codes.row_ids().tolist(), codes.indices.tolist(), strict=True)) == expected
        )
        assert codes.shape == shape
        assert codes.n_rows == n_rows
    assert torch.equal(fast.indices, slow.indices)
    assert torch.equal(fast.values, slow.values)


def test_batch_topk_on_one_row_is_topk():
    x = torch.randn(1, 900, generator=torch.Generator().manual_seed(0))
    assert batch_topk(x, 17) == topk(x, 17)


def test_batch_topk_has_no_cap_per_row():
    x = torch.stack([torch.arange(1.0, 101.0), torch.zeros(100)])
    assert batch_topk(x, 40).n_active.tolist() == [80, 0]


def test_batch_topk_counts_all_leading_axes():
    """dictionary_learning multiplies k by x.size(0) only, so 3-D input gets far too few entries."""
    x = torch.rand(2, 5, 50, generator=torch.Generator().manual_seed(0))
    assert int(batch_topk(x, 3).n_active.sum()) == 30


@pytest.mark.parametrize("impl", ["cpu", "triton", "reference"])
def test_batch_topk_gradient(impl):
    x = torch.randn(
        4, 60, dtype=torch.float32, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    codes = batch_topk(x, 2, impl=impl)
    codes.values.square().sum().backward()
    assert torch.equal(x.grad, 2 * codes.to_dense().detach())


@pytest.mark.parametrize("width", [3100, 4096, 20001])
def test_rare_nan_of_either_sign_hides_nothing(width):
    """A NaN in one of many groups must not make the ladder drop that group's other entries."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(6, width, generator=generator)
    for sign in (1.0, -1.0):
        x[torch.rand(x.shape, generator=generator) < 3 / width] = sign * torch.tensor(math.nan)
    x[0, 5], x[0, 5 + width // 8] = math.nan, 100.0
    slow = topk(x, 8, impl="reference")
    assert torch.equal(topk(x, 8, impl="cpu").indices, slow.indices)
    assert torch.equal(cpu.topk_columns(x.t().contiguous(), 8)[1], slow.indices)


def test_numpy_arrays_are_taken_as_they_are():
    x = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert topk(x.numpy(), 5) == topk(x, 5)
    assert topk(x.numpy()[::-1], 5) == topk(x.flip(0), 5)
    assert batch_topk(x.numpy(), np.float32(2.5)) == batch_topk(x, 2.5)


def test_group_max_takes_one_winner_of_each_group():
    x = torch.tensor([[1.0, 5.0, 2.0, 2.0, 0.0, 9.0, 3.0]])
    codes = group_max(x, 3)  # groups [0, 2), [2, 4), [4, 7)
    assert codes.indices.tolist() == [[5, 1, 2]]
    assert group_max(x, 7) == topk(x, 7)
    assert group_max(x, 1) == topk(x, 1)


def cases_of_kernels():
    for kind in KINDS:
        yield kind, (2, 67), 5
    for shape, k in [((1, 1), 1), ((3, 7), 7), ((2, 1009), 32), ((2, 4099), 13), ((1, 9001), 1100)]:
        yield "ties", shape, k
        yield "random", shape, k
    yield "one_group", (1, 2048), 32
    yield "nan", (2, 700), 700
    yield "float64", (2, 300), 3


@pytest.mark.parametrize(("kind", "shape", "k"), list(cases_of_kernels()), ids=str)
def test_triton_selection_equals_the_reference(kind, shape, k):
    x = rows_of(kind, *shape)
    x = x.double() if kind == "float64" else x
    fast, slow = topk(x, k, impl="triton"), topk(x, k, impl="reference")
    assert torch.equal(fast.indices, slow.indices)
    assert torch.equal(fast.values, slow.values)
    assert fast.values.dtype == x.dtype


@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize("value", [0.0, -math.inf, 7.0])
def test_triton_selection_around_the_capacity_of_its_block(monkeypatch, value, beyond):
    """All candidates equal, just fewer than, as many as and more than stay in registers."""
    from sparsecode.ops.selection import triton

    monkeypatch.setattr(triton, "BLOCK", 64)
    x = torch.full((1, 64 + beyond), value)
    x[0, -1] = 8.0
    assert topk(x, 9, impl="triton").indices.tolist() == [[63 + beyond, *range(8)]]


def test_triton_selection_writes_every_entry_and_nothing_else(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    x = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    torch.use_deterministic_algorithms(True)
    try:
        codes, batch = topk(x, 7, impl="triton"), batch_topk(x, 7, impl="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert codes == topk(x, 7, impl="reference")
    assert batch == batch_topk(x, 7, impl="reference")
    assert torch.equal(x, before)


@given(
    st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=6, max_size=6),
    st.integers(1, 6),
)
@settings(max_examples=15, deadline=None)
def test_triton_selection_of_any_floats_follows_the_definition(row, k):
    x = torch.tensor([row], dtype=torch.float32)
    assert topk(x, k, impl="triton").indices.tolist() == [by_definition(row, k)]
    assert batch_topk(x, k, impl="triton").indices.tolist() == by_definition(row, k)


@pytest.mark.parametrize("kind", ["random", "ties", "equal", "nan", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "k"), [((6, 40), 2.5), ((2, 3, 701), 4), ((5, 8), 8), ((3, 6000), 1), ((1, 1), 1)]
)
def test_triton_batch_topk_equals_the_reference(kind, shape, k):
    x = rows_of(kind, math.prod(shape[:-1]), shape[-1]).reshape(shape)
    fast, slow = batch_topk(x, k, impl="triton"), batch_topk(x, k, impl="reference")
    assert torch.equal(fast.indices, slow.indices)
    assert torch.equal(fast.crow, slow.crow)
    assert torch.equal(fast.values, slow.values)


def test_triton_without_a_gpu_or_its_interpreter_says_so():
    source = """
import torch, sparsecode
try:
    sparsecode.topk(torch.zeros(1, 3), 1, impl="triton")
except NotImplementedError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "unsupported here: tensors on cpu, where kernels run only if" in done.stdout


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda x: topk(x, 0),
            ValueError,
            r"`k` must be an int in \[1, n_latents\]; got 0 with n_latents=8",
        ),
        (
            lambda x: topk(x, 9),
            ValueError,
            r"`k` must be an int in \[1, n_latents\]; got 9 with n_latents=8",
        ),
        (lambda x: topk(x, 2.0), TypeError, "`k` must be an int"),
        (lambda x: topk(x, True), TypeError, "`k` must be an int"),
        (lambda x: topk(x.long(), 2), TypeError, "`x` must be a floating tensor; got dtype int64"),
        (lambda x: topk(x.tolist(), 2), TypeError, "`x` must be a torch.Tensor; got list"),
        (lambda x: topk(x[0, 0], 1), ValueError, r"`x` must have shape \(..., n_latents\)"),
        (lambda x: topk(x[:, :0], 1), ValueError, r"`x` must have shape \(..., n_latents\)"),
        (
            lambda x: topk(x.double(), 1, impl="cpu"),
            NotImplementedError,
            r'`topk\(impl="cpu"\)` is unsupported here: dtype',
        ),
        (
            lambda x: group_max(x, 1, impl="triton"),
            NotImplementedError,
            "there is no such implementation",
        ),
        (
            lambda x: topk(x, 1, impl="fast"),
            ValueError,
            "`impl` must be one of 'auto', 'reference', 'cpu', 'triton'",
        ),
        (
            lambda x: batch_topk(x, 0),
            ValueError,
            r"number in \(0, inf\); got 0",
        ),
        (lambda x: batch_topk(x, math.nan), ValueError, "`k` must be a finite number"),
        (lambda x: batch_topk(x, "3"), TypeError, "`k` must be a number"),
        (lambda x: group_max(x, 9), ValueError, "`n_groups` must be an int"),
    ],
)
def test_bad_input_gets_one_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(torch.randn(3, 8))
