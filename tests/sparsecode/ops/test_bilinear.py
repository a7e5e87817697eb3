"""Bilinear features with selection: codes, gradients and memory of the chunked paths."""

import math

import pytest
import torch

from sparsecode import bilinear_features
from sparsecode.ops.bilinear import cpu
from sparsecode.testing import max_new_bytes

CASES = [
    (1, 1, 1, 1),
    (5, 3, 40, 4),
    (33, 7, 401, 13),
    (2, 4, 1009, 1),
    (70, 6, 64, 64),
    (0, 3, 9, 2),
]
IDS = [f"N{n}-D{d}-F{f}-K{k}" for n, d, f, k in CASES]
TRITON_CASES = [(1, 1, 1, 1), (5, 3, 40, 4), (9, 7, 401, 13), (0, 3, 9, 2)]


def problem(n, d, f, k, *, integers=False):
    """Return x, left, right, b_left, b_right and pre_bias; integers make all sums exact."""
    generator = torch.Generator().manual_seed(n + f)
    if integers:
        draw = lambda *shape: torch.randint(-4, 5, shape, generator=generator).float()  # noqa: E731
    else:
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return draw(n, d), draw(f, d), draw(f, d), draw(f), draw(f), draw(d)


def features(leaves, k, **options):
    x, left, right, b_left, b_right, pre_bias = leaves
    biases = {"b_left": b_left, "b_right": b_right, "pre_bias": pre_bias}
    return bilinear_features(x, left, right, k, **biases, **options)


def test_it_is_the_product_of_two_linear_maps():
    x, left, right, *_ = problem(5, 3, 40, 40)
    codes = bilinear_features(x, left, right, 40, activation="none")
    torch.testing.assert_close(codes.to_dense(), (x @ left.T) * (x @ right.T))
    assert bool((codes.values.diff(dim=1) <= 0).all())


@pytest.mark.parametrize("memory", ["auto", "min"])
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_fast_path_selects_exactly_what_the_reference_selects(case, dtype, activation, memory):
    leaves = [leaf.to(dtype) for leaf in problem(*case, integers=True)]
    fast = features(leaves, case[3], activation=activation, memory=memory, impl="cpu")
    slow = features(leaves, case[3], activation=activation, impl="reference")
    assert torch.equal(fast.indices, slow.indices)
    assert torch.equal(fast.values, slow.values)


@pytest.mark.parametrize("memory", ["auto", "min"])
@pytest.mark.parametrize("case", TRITON_CASES, ids=str)
def test_triton_selects_exactly_what_the_reference_selects(case, memory, monkeypatch):
    from sparsecode.ops.bilinear import triton

    monkeypatch.setattr(triton, "AUTO_ROWS", 4)
    monkeypatch.setattr(triton, "MIN_ROWS", 2)
    leaves = problem(*case, integers=True)
    fast = features(leaves, case[3], activation="none", memory=memory, impl="triton")
    slow = features(leaves, case[3], activation="none", impl="reference")
    assert torch.equal(fast.indices, slow.indices)
    assert torch.equal(fast.values, slow.values)


@pytest.mark.parametrize("impl", ["cpu", "triton"])
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("case", TRITON_CASES, ids=str)
def test_all_gradients_against_those_of_the_definition(case, activation, impl):
    leaves = [leaf.double().requires_grad_() for leaf in problem(*case)]
    weight = torch.randn(case[0], case[3], generator=torch.Generator().manual_seed(0)).double()
    found = []
    for name in (impl, "reference"):
        codes = features(leaves, case[3], activation=activation, impl=name)
        grads = torch.autograd.grad((codes.values * weight).sum(), leaves)
        found.append([codes.values, *grads])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow)


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_gradcheck(impl):
    leaves = [leaf.double().requires_grad_() for leaf in problem(3, 2, 6, 3)]
    run = lambda *leaves: features(leaves, 3, activation="none", impl=impl).values  # noqa: E731
    assert torch.autograd.gradcheck(run, leaves, fast_mode=impl == "triton")


def test_gradients_in_float32_through_the_lists_of_an_optimizer():
    from sparsecode.ops._row_gradient import RowGradient

    leaves = [leaf.requires_grad_() for leaf in problem(33, 7, 401, 13)]
    dense = torch.autograd.grad(features(leaves, 13).values.sum(), leaves[1:3])
    for weight in leaves[1:3]:
        weight.row_gradient = RowGradient(401)
    features(leaves, 13).values.sum().backward()
    for weight, gradient in zip(leaves[1:3], dense, strict=True):
        assert weight.grad is None
        assert torch.equal(weight.row_gradient.to_dense(), gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("impl", ["cpu", "triton", "reference"])
def test_a_nan_row_touches_no_other_row(impl, dtype):
    x, left, right, *_ = (leaf.to(dtype) for leaf in problem(6, 5, 100, 8))
    x[2, 1] = math.nan
    left.requires_grad_()
    codes = bilinear_features(x, left, right, 8, impl=impl)
    assert codes.indices[2].tolist() == list(range(8))
    assert codes.values[2].abs().sum() == 0
    clean = [0, 1, 3, 4, 5]
    other = bilinear_features(x[clean], left, right, 8, impl=impl)
    assert torch.equal(codes.indices[clean], other.indices)
    codes.values.sum().backward()
    assert bool(torch.isfinite(left.grad).all())


@pytest.mark.parametrize(("memory", "share"), [("auto", 0.25), ("min", 0.05)])
def test_products_are_never_held_whole(memory, share):
    n, f = 4096, 8192
    x, left, right, *_ = problem(n, 16, f, 8)
    with torch.no_grad():
        peak = max_new_bytes(
            lambda: bilinear_features(x, left, right, 8, memory=memory, impl="cpu")
        )
    assert peak < share * n * f * 4


@pytest.mark.parametrize(("rows", "width"), [(1, 10), (100, 10), (2048, 16384), (10, 10**7)])
def test_chunks_hold_at_least_one_row(rows, width):
    for memory in ("auto", "min"):
        assert 1 <= cpu.rows_per_chunk(rows, width, memory) <= rows


def test_leading_axes():
    x, left, right, *_ = problem(12, 5, 77, 4)
    flat = bilinear_features(x, left, right, 4)
    deep = bilinear_features(x.reshape(2, 3, 2, 5), left, right, 4)
    assert deep.shape == (2, 3, 2, 77)
    assert torch.equal(deep.indices.reshape(12, 4), flat.indices)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"k": 41},
            ValueError,
            r"`k` must be an int in \[1, n_latents\]; got 41 with n_latents=40",
        ),
        ({"x": torch.zeros(5, 4)}, ValueError, r"`x` must have shape \(..., n_features\)"),
        ({"left": torch.zeros(3)}, ValueError, r"`left` must have shape \(n_latents, n_features\)"),
        ({"right": torch.zeros(3, 40)}, ValueError, "Was it passed transposed"),
        ({"b_left": torch.zeros(3)}, ValueError, r"`b_left` must have shape \(n_latents,\)"),
        ({"pre_bias": torch.zeros(4)}, ValueError, r"`pre_bias` must have shape \(n_features,\)"),
        ({"activation": "gelu"}, ValueError, "`activation` must be one of 'relu', 'none'"),
        ({"memory": "max"}, ValueError, "`memory` must be one of"),
        ({"x": torch.zeros(5, 3).double()}, TypeError, r"`left` must have the dtype of `x`"),
        ({"x": torch.zeros(5, 3).long()}, TypeError, "`x` must be a floating tensor"),
        ({"impl": "gpu"}, ValueError, "`impl` must be one of"),
    ],
)
def test_bad_input_gets_one_sentence(change, error, sentence):
    x, left, right, *_ = problem(5, 3, 40, 4)
    with pytest.raises(error, match=sentence):
        bilinear_features(**{"x": x, "left": left, "right": right, "k": 4, **change})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_named_implementation_does_not_fall_back(dtype):
    x, left, right, *_ = (leaf.to(dtype) for leaf in problem(5, 3, 40, 4))
    with pytest.raises(NotImplementedError, match=r'`bilinear_features\(impl="cpu"\)` is unsupp'):
        bilinear_features(x, left, right, 4, impl="cpu")
    assert bilinear_features(x, left, right, 4).dtype == dtype
