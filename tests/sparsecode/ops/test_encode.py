"""Linear encoding with selection: codes, gradients and memory of the chunked path."""

import math

import pytest
import torch

from sparsecode import encode_topk
from sparsecode.ops.encode import cpu
from sparsecode.testing import max_new_bytes

CASES = [
    (1, 1, 1, 1),
    (5, 3, 40, 4),
    (33, 7, 401, 13),
    (2, 4, 1009, 1),
    (70, 6, 64, 64),
    (0, 3, 9, 2),
]
ids = [f"N{n}-D{d}-F{f}-K{k}" for n, d, f, k in CASES]


def problem(n, d, f, k, *, integers=False):
    """Integer values make every order of summation exact, so that ids must agree bit for bit."""
    generator = torch.Generator().manual_seed(n + f)
    if integers:
        draw = lambda *shape: torch.randint(-8, 9, shape, generator=generator).float()  # noqa: E731
    else:
        draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return draw(n, d), draw(f, d).t(), draw(f), draw(d)


@pytest.mark.parametrize("memory", ["auto", "min"])
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_fast_path_selects_exactly_what_the_reference_selects(case, activation, memory):
    x, W, b, pre = problem(*case, integers=True)
    options = {"pre_bias": pre, "activation": activation, "memory": memory}
    fast = encode_topk(x, W, b, case[3], impl="cpu", **options)
    slow = encode_topk(x, W, b, case[3], impl="reference", **options)
    assert torch.equal(fast.indices, slow.indices)
    assert torch.equal(fast.values, slow.values)


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_all_gradients_against_float64_autograd(case, activation):
    leaves = problem(*case)
    weight = torch.randn(case[0], case[3], generator=torch.Generator().manual_seed(0))
    grads = []
    for impl, dtype in [("cpu", torch.float32), ("reference", torch.float64)]:
        x, W, b, pre = (leaf.to(dtype).detach().requires_grad_() for leaf in leaves)
        codes = encode_topk(x, W, b, case[3], activation=activation, pre_bias=pre, impl=impl)
        loss = (codes.values * weight.to(dtype)).sum()
        grads.append([codes.values, *torch.autograd.grad(loss, [x, W, b, pre])])
    for fast, slow in zip(*grads, strict=True):
        scale = max(1.0, float(slow.detach().norm()) if slow.numel() else 1.0)
        torch.testing.assert_close(fast.double() / scale, slow / scale, atol=1e-6, rtol=0)


def test_boundary_of_the_selection_on_real_numbers():
    """Everything selected is at least, everything else at most, the k-th value, up to rounding."""
    x, W, b, _ = problem(64, 32, 3000, 20)
    codes = encode_topk(x, W, b, 20, activation="none", impl="cpu")
    z = x.double() @ W.double() + b.double()
    kth = z.topk(20).values[:, -1:]
    slack = 1e-6 * x.norm() * W.norm(dim=0).max()
    chosen = torch.zeros_like(z, dtype=torch.bool).scatter(1, codes.indices, True)
    assert bool((z >= kth - slack)[chosen].all())
    assert bool((z <= kth + slack)[~chosen].all())
    torch.testing.assert_close(
        codes.values.double(), z.gather(1, codes.indices), atol=1e-4, rtol=1e-5
    )


def test_picks_that_are_not_positive_have_value_zero_and_no_gradient():
    """sparsify's fused encoder sends gradients to picks of value 0; see tests/comparison."""
    x = torch.tensor([[1.0, 0.0]])
    W = torch.tensor([[1.0, -1.0, -2.0], [0.0, 0.0, 0.0]], requires_grad=True)
    codes = encode_topk(x, W, None, 3)
    assert codes.values.tolist() == [[1.0, 0.0, 0.0]]
    assert codes.n_active.tolist() == [1]
    codes.values.sum().backward()
    assert W.grad.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("impl", ["cpu", "triton", "reference"])
def test_a_nan_row_touches_no_other_row(impl):
    x, W, b, pre = problem(6, 5, 500, 8)
    x[2, 1] = math.nan
    W.requires_grad_()
    codes = encode_topk(x, W, b, 8, pre_bias=pre, impl=impl)
    assert codes.indices[2].tolist() == list(range(8))
    assert codes.values[2].abs().sum() == 0
    clean = [0, 1, 3, 4, 5]
    other = encode_topk(x[clean], W, b, 8, pre_bias=pre, impl=impl)
    assert torch.equal(codes.indices[clean], other.indices)
    codes.values[clean].sum().backward()
    assert bool(torch.isfinite(W.grad).all())


def test_leading_axes_and_layout_of_the_weights():
    x, W, b, pre = problem(12, 5, 77, 4)
    flat = encode_topk(x, W, b, 4, pre_bias=pre)
    deep = encode_topk(x.reshape(2, 3, 2, 5), W.contiguous(), b, 4, pre_bias=pre)
    assert deep.shape == (2, 3, 2, 77)
    assert torch.equal(deep.indices.reshape(12, 4), flat.indices)


@pytest.mark.parametrize(("memory", "share"), [("auto", 0.25), ("min", 0.05)])
def test_preactivations_are_never_held_whole(memory, share):
    n, f = 4096, 8192
    x, W, b, _ = problem(n, 16, f, 8)
    with torch.no_grad():
        peak = max_new_bytes(lambda: encode_topk(x, W, b, 8, impl="cpu", memory=memory))
    assert peak < share * n * f * 4


@pytest.mark.parametrize(("rows", "width"), [(1, 10), (100, 10), (2048, 16384), (10, 10**7)])
def test_chunks_hold_at_least_one_row_and_stay_in_budget(rows, width):
    for memory in ("auto", "min"):
        assert 1 <= cpu.rows_per_chunk(rows, width, memory) <= rows


TRITON_CASES = [(1, 1, 1, 1), (5, 3, 40, 4), (9, 7, 401, 13), (3, 6, 64, 64), (0, 3, 9, 2)]


@pytest.mark.parametrize("memory", ["auto", "min"])
@pytest.mark.parametrize("case", TRITON_CASES, ids=str)
def test_triton_selects_exactly_what_the_reference_selects(case, memory, monkeypatch):
    from sparsecode.ops.encode import triton

    monkeypatch.setattr(triton, "AUTO_ROWS", 4)
    monkeypatch.setattr(triton, "MIN_ROWS", 2)
    x, W, b, pre = problem(*case, integers=True)
    options = {"pre_bias": pre, "activation": "none", "memory": memory}
    fast = encode_topk(x, W, b, case[3], impl="triton", **options)
    slow = encode_topk(x, W, b, case[3], impl="reference", **options)
    assert torch.equal(fast.indices, slow.indices)
    assert torch.equal(fast.values, slow.values)


@pytest.mark.parametrize("case", TRITON_CASES, ids=str)
@pytest.mark.parametrize("activation", ["relu", "none"])
def test_triton_gradients_against_float64_autograd(case, activation):
    leaves = [leaf.double().requires_grad_() for leaf in problem(*case)]
    weight = torch.randn(case[0], case[3], generator=torch.Generator().manual_seed(0)).double()
    grads = []
    for impl in ("triton", "reference"):
        x, W, b, pre = leaves
        codes = encode_topk(x, W, b, case[3], activation=activation, pre_bias=pre, impl=impl)
        loss = (codes.values * weight).sum()
        grads.append([codes.values, *torch.autograd.grad(loss, leaves)])
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow)


def test_triton_gradcheck():
    x, W, b, pre = (leaf.double().requires_grad_() for leaf in problem(1, 2, 6, 3))

    def run(x, W, b, pre):
        return encode_topk(x, W, b, 3, pre_bias=pre, impl="triton").values

    assert torch.autograd.gradcheck(run, (x, W, b, pre), fast_mode=True)


def test_triton_with_nan_in_a_row_or_in_a_latent():
    x, W, b, _ = problem(3, 5, 60, 8)
    x[1, 2] = math.nan
    W = W.clone()
    W[:, 7] = math.nan
    W.requires_grad_()
    codes = encode_topk(x, W, b, 8, activation="none", impl="triton")
    slow = encode_topk(x, W, b, 8, activation="none", impl="reference")
    assert torch.equal(codes.indices, slow.indices)
    assert codes.values[1].tolist() == [0.0] * 8
    codes.values.sum().backward()
    assert bool(torch.isfinite(W.grad).all())


def test_triton_preactivations_are_never_held_whole(monkeypatch):
    from sparsecode.ops.encode import triton

    monkeypatch.setattr(triton, "MIN_ROWS", 1)
    new_empty, sizes = torch.Tensor.new_empty, []

    def counted(*args, **options):
        sizes.append(new_empty(*args, **options).numel())
        return new_empty(*args, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", counted)
    x, W, b, _ = problem(5, 2, 3000, 8)
    encode_topk(x, W, b, 8, impl="triton", memory="min")
    assert max(sizes) == 3000
    for rows in (1, 100, 8192, 10**6):
        assert triton.rows_per_chunk(rows, "min") <= max(128, 0.025 * rows)
        assert triton.rows_per_chunk(rows, "auto") <= max(1024, 0.25 * rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_triton_under_autocast_multiplies_in_half_precision(dtype):
    x, W, b, pre = (leaf.requires_grad_() for leaf in problem(2, 5, 40, 3))
    with torch.autocast("cpu", dtype):
        codes = encode_topk(x, W, b, 3, pre_bias=pre, impl="triton")
    assert codes.dtype == dtype
    codes.values.sum().backward()
    assert W.grad.dtype == torch.float32
    exact = encode_topk(x, W, b, 3, pre_bias=pre, impl="reference")
    torch.testing.assert_close(codes.values.float(), exact.values, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"k": 41},
            ValueError,
            r"`k` must be an int in \[1, n_latents\]; got 41 with n_latents=40",
        ),
        ({"k": 0}, ValueError, "`k` must be an int"),
        (
            {"x": torch.zeros(5, 4)},
            ValueError,
            r"`x` must have shape \(..., n_features\) = \(..., 3\); got \(5, 4\)",
        ),
        ({"x": torch.zeros(5, 3).long()}, TypeError, "`x` must be a floating tensor"),
        (
            {"W_enc": torch.zeros(3)},
            ValueError,
            r"`W_enc` must have shape \(n_features, n_latents\)",
        ),
        (
            {"b_enc": torch.zeros(3)},
            ValueError,
            r"`b_enc` must have shape \(n_latents,\) = \(40,\); got \(3,\)",
        ),
        ({"pre_bias": torch.zeros(40)}, ValueError, r"`pre_bias` must have shape \(n_features,\)"),
        (
            {"activation": "gelu"},
            ValueError,
            "`activation` must be one of 'relu', 'none'; got 'gelu'",
        ),
        ({"memory": "max"}, ValueError, "`memory` must be one of"),
        (
            {"x": torch.zeros(5, 3).double()},
            TypeError,
            r"`W_enc` must have the dtype of `x` \(float64\)",
        ),
    ],
)
def test_bad_input_gets_one_sentence(change, error, sentence):
    x, W, b, _ = problem(5, 3, 40, 4)
    arguments = {"x": x, "W_enc": W, "b_enc": b, "k": 4, **change}
    with pytest.raises(error, match=sentence):
        encode_topk(**arguments)
