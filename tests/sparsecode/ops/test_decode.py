"""Decoding: outputs and every gradient against autograd in float64, in both layouts."""

import pytest
import torch

from sparsecode import SparseCodes, decode, decode_mse, encode_topk, topk
from sparsecode.ops._row_gradient import RowGradient

CASES = [(1, 1, 1, 1), (4, 3, 7, 2), (17, 5, 101, 13), (3, 8, 5, 5), (0, 4, 6, 2)]
ids = [f"N{n}-D{d}-F{f}-K{k}" for n, d, f, k in CASES]


def problem(n, d, f, k, *, ragged=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n + 10 * d)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    codes = topk(draw(n, f), k)
    codes = codes.with_values(codes.values.relu())
    codes = codes.to_ragged() if ragged else codes
    codes = codes.with_values(codes.values.detach().requires_grad_())
    leaves = {"W_dec": draw(f, d), "target": draw(n, d), "bias": draw(d)}
    return codes, {name: leaf.requires_grad_() for name, leaf in leaves.items()}


@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("impl", ["reference", "cpu", "triton"])
def test_decode_is_the_dense_product(impl, case, ragged):
    codes, leaves = problem(*case, ragged=ragged)
    out = decode(codes, leaves["W_dec"], bias=leaves["bias"], impl=impl)
    expected = codes.to_dense() @ leaves["W_dec"] + leaves["bias"]
    torch.testing.assert_close(out, expected)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(0))
    inputs = [codes.values, leaves["W_dec"], leaves["bias"]]
    got = torch.autograd.grad((out * weight).sum(), inputs)
    want = torch.autograd.grad((expected * weight).sum(), inputs)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("impl", ["reference", "cpu", "triton"])
def test_decode_mse_gradients_of_both_outputs(impl, case, ragged):
    codes, leaves = problem(*case, ragged=ragged)
    loss, recon = decode_mse(
        codes, leaves["W_dec"], leaves["target"], bias=leaves["bias"], impl=impl
    )
    dense = codes.to_dense() @ leaves["W_dec"] + leaves["bias"]
    error = (dense - leaves["target"]).square().sum() / max(case[0], 1)
    torch.testing.assert_close(loss, error)
    torch.testing.assert_close(recon, dense)
    inputs = [codes.values, *leaves.values()]
    for ours, theirs in [
        (loss, error),
        (recon.sin().sum(), dense.sin().sum()),
        (loss + recon.sum(), error + dense.sum()),
    ]:
        got = torch.autograd.grad(ours, inputs, retain_graph=True, allow_unused=True)
        want = torch.autograd.grad(theirs, inputs, retain_graph=True, allow_unused=True)
        for g, w, leaf in zip(got, want, inputs, strict=True):
            zero = torch.zeros_like(leaf)
            torch.testing.assert_close(zero if g is None else g, zero if w is None else w)


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_gradcheck(impl):
    codes, leaves = problem(3, 4, 9, 3)

    def run(values, W_dec, target, bias):
        return decode_mse(codes.with_values(values), W_dec, target, bias=bias, impl=impl)

    assert torch.autograd.gradcheck(
        run, (codes.values, leaves["W_dec"], leaves["target"], leaves["bias"])
    )


@pytest.mark.parametrize("impl", ["reference", "cpu", "triton"])
def test_strided_codes(impl):
    """One column of a matrix stays a strided view even when it is made flat."""
    values, indices = torch.arange(6.0).view(3, 2), torch.tensor([[1, 0], [1, 0], [0, 1]])
    W = torch.tensor([[1.0], [10.0]])
    out = decode(SparseCodes(values[:, :1], indices[:, :1], 2), W, impl=impl)
    assert out.tolist() == [[0.0], [20.0], [4.0]]
    loss, _ = decode_mse(SparseCodes(values[:, 1:], indices[:, 1:], 2), W, out, impl=impl)
    assert float(loss) == ((1 - 0) ** 2 + (3 - 20) ** 2 + (50 - 4) ** 2) / 3


@pytest.mark.parametrize("impl", ["reference", "cpu", "triton"])
def test_repeated_indices_add(impl):
    values = torch.tensor([[1.0, 2.0]], requires_grad=True)
    W = torch.tensor([[3.0], [5.0]], requires_grad=True)
    out = decode(SparseCodes(values, torch.tensor([[1, 1]]), 2), W, impl=impl)
    out.sum().backward()
    assert out.tolist() == [[15.0]]
    assert W.grad.tolist() == [[0.0], [3.0]]
    assert values.grad.tolist() == [[5.0, 5.0]]


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype, impl):
    """A thousand entries of 1 give 1000; a running sum in bfloat16 would stop at 256."""
    codes = SparseCodes(torch.ones(1, 1000, dtype=dtype), torch.arange(1000)[None], 1000)
    out = decode(codes, torch.ones(1000, 1, dtype=dtype), impl=impl)
    assert out.dtype == dtype
    assert abs(out.item() - 1000) <= 8


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_weight_gradient_is_bitwise_reproducible(impl):
    codes, leaves = problem(30 if impl == "triton" else 300, 6, 40, 8, dtype=torch.float32)
    grads = []
    for _ in range(2):
        loss, _ = decode_mse(codes, leaves["W_dec"], leaves["target"], impl=impl)
        grads.append(torch.autograd.grad(loss, [leaves["W_dec"], codes.values]))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


@pytest.mark.parametrize("transposed", [False, True])
def test_a_collector_receives_what_grad_would_hold(transposed):
    """The optimizer's sparse lists stand for the same matrix as the dense gradient."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 6, generator=generator), torch.randn(50, 6, generator=generator)
    W_enc = torch.nn.Parameter(torch.randn(90, 6, generator=generator).t())
    W_dec = W_enc if transposed else torch.nn.Parameter(torch.randn(90, 6, generator=generator))

    def backward():
        codes = encode_topk(x, W_enc, None, 7)
        decode_mse(codes, W_dec.t() if transposed else W_dec, y)[0].backward()

    backward()
    dense_enc, dense_dec = W_enc.grad.t().clone(), W_dec.grad.clone()
    W_enc.grad = W_dec.grad = None
    W_enc.row_gradient = RowGradient(90)
    W_dec.row_gradient = W_enc.row_gradient if transposed else RowGradient(90)
    backward()
    assert W_enc.grad is None
    assert W_dec.grad is None
    torch.testing.assert_close(W_enc.row_gradient.to_dense(), dense_enc)
    if not transposed:
        torch.testing.assert_close(W_dec.row_gradient.to_dense(), dense_dec)
        torch.testing.assert_close(W_dec.row_gradient.sums(13, 29), dense_dec[13:29])
    for _ in range(3):  # more lists than a dense matrix would need are summed into one
        backward()
    torch.testing.assert_close(W_enc.row_gradient.to_dense(), 4 * dense_enc)


@pytest.mark.parametrize("k", [63, 64, 65, 130])
@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
def test_triton_rows_around_the_tile_that_is_gathered_once(k, ragged):
    """Strided weights and targets, repeated indices, NaN wherever the kernel did not write."""
    generator = torch.Generator().manual_seed(k)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    codes = SparseCodes(draw(2, k), torch.randint(0, 50, (2, k), generator=generator), 50)
    codes = codes.to_ragged() if ragged else codes
    values = codes.values.clone().requires_grad_()
    W, target = draw(9, 50).t().requires_grad_(), draw(9, 4).t()[::2].requires_grad_()
    results = []
    for impl in ("reference", "triton"):
        loss, recon = decode_mse(codes.with_values(values), W, target, impl=impl)
        grads = torch.autograd.grad(loss * 3 + recon.cos().sum(), [values, W, target])
        results.append([loss, recon, *grads])
    torch.testing.assert_close(results[1], results[0])


def test_triton_in_half_precision_keeps_the_error_of_the_error_small():
    """The error is taken before the reconstruction is rounded, not after."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(40, 16, generator=generator).bfloat16()
    codes = topk(torch.randn(4, 40, generator=generator), 6).to(torch.bfloat16)
    exact = decode(codes.to(torch.float64), W.double())
    target = (exact + 0.01 * torch.randn(exact.shape, generator=generator)).float()
    W_leaf = W.clone().requires_grad_()
    loss, recon = decode_mse(codes, W_leaf, target, impl="triton")
    loss.backward()
    error = exact - target.double()
    want = codes.to(torch.float64).to_dense().t() @ (2 / 4 * error)
    assert recon.dtype == W_leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss.double(), error.square().sum() / 4, rtol=1e-4, atol=0)
    assert float((W_leaf.grad.double() - want).norm() / want.norm()) < 1e-2


def test_triton_fills_a_collector_as_the_fast_path_does():
    codes, leaves = problem(20, 6, 30, 4, dtype=torch.float32)
    W = torch.nn.Parameter(leaves["W_dec"].detach())
    dense = []
    for impl in ("cpu", "triton"):
        W.row_gradient = RowGradient(30)
        decode_mse(codes, W, leaves["target"], impl=impl)[0].backward()
        assert W.grad is None
        dense.append(W.row_gradient.to_dense())
    torch.testing.assert_close(dense[1], dense[0])


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (
            lambda c, W, y: decode(c, W.t()),
            ValueError,
            r"`W_dec` must have shape .* Was it passed transposed\?",
        ),
        (
            lambda c, W, y: decode(c, W[:-1]),
            ValueError,
            r"`W_dec` must have shape \(n_latents, n_features\)",
        ),
        (
            lambda c, W, y: decode(c.to_dense(), W),
            TypeError,
            "`codes` must be a SparseCodes; got Tensor",
        ),
        (lambda c, W, y: decode(c, W.long()), TypeError, "`W_dec` must be a floating tensor"),
        (lambda c, W, y: decode(c, W, bias=y[0, :-1]), ValueError, "`bias` must have shape"),
        (lambda c, W, y: decode_mse(c, W, y[:-1]), ValueError, "`target` must have shape"),
        (lambda c, W, y: decode_mse(c, W, y[:, :-1]), ValueError, "`target` must have shape"),
        (lambda c, W, y: decode(c, W.float(), impl="cpu"), NotImplementedError, "different dtypes"),
    ],
)
def test_bad_input_gets_one_sentence(call, error, sentence):
    codes, leaves = problem(4, 3, 7, 2)
    with pytest.raises(error, match=sentence):
        call(codes, leaves["W_dec"], leaves["target"])
