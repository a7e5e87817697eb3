"""The error at several budgets: outputs and all gradients against dense autograd in float64."""

import pytest
import torch

from sparsecode import SparseCodes, decode_mse, hierarchical_mse, topk
from sparsecode.ops._row_gradient import RowGradient
from sparsecode.ops.hierarchical import cpu

IMPLS = ["reference", "cpu", "triton"]
CASES = [
    ((1, 1, 1, 1), None, None),
    ((3, 5, 23, 7), [1, 2, 7], [0.5, 0.25, 2.0]),
    ((3, 5, 23, 7), None, None),
    ((2, 131, 40, 20), [19, 3], [1.0, -0.5]),
    ((4, 3, 9, 5), [2], None),
    ((0, 4, 6, 2), [1, 2], None),
]


def problem(n, d, f, k, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n + 10 * d)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    codes = topk(draw(n, f), k)
    codes = codes.with_values(codes.values.detach().requires_grad_())
    return codes, [leaf.requires_grad_() for leaf in (draw(f, d), draw(n, d), draw(d))]


def by_definition(codes, W, target, bias, budgets, weights):
    """Masked dense products, one for each budget."""
    k = codes.values.shape[-1]
    budgets = budgets or range(1, k + 1)
    weights = weights or [1 / len(budgets)] * len(budgets)
    loss, recons = 0.0, []
    for budget, weight in zip(budgets, weights, strict=True):
        kept = codes.with_values(codes.values * (torch.arange(k) < budget))
        recon = kept.to_dense() @ W + bias
        loss = loss + weight * (recon - target).square().sum() / max(len(target), 1)
        recons.append(recon)
    return loss, torch.stack(recons)


@pytest.mark.parametrize(("case", "budgets", "weights"), CASES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_losses_reconstructions_and_every_gradient(impl, case, budgets, weights):
    codes, leaves = problem(*case)
    W, target, bias = leaves
    ours = hierarchical_mse(
        codes, W, target, budgets=budgets, weights=weights, bias=bias, impl=impl
    )
    theirs = by_definition(codes, *leaves, budgets, weights)
    torch.testing.assert_close(ours, theirs)
    inputs = [codes.values, *leaves]
    for pick in (
        lambda loss, recons: loss,
        lambda loss, recons: recons.sin().sum(),
        lambda loss, recons: 3 * loss + recons.cos().sum(),
    ):
        got = torch.autograd.grad(pick(*ours), inputs, retain_graph=True, allow_unused=True)
        want = torch.autograd.grad(pick(*theirs), inputs, retain_graph=True, allow_unused=True)
        for g, w, leaf in zip(got, want, inputs, strict=True):
            zero = torch.zeros_like(leaf)
            torch.testing.assert_close(zero if g is None else g, zero if w is None else w)


@pytest.mark.parametrize("held", [1, 60, 1 << 21])
@pytest.mark.parametrize(("case", "budgets", "weights"), CASES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_the_loss_alone_has_the_same_gradients(impl, case, budgets, weights, held, monkeypatch):
    monkeypatch.setattr(cpu, "HELD", held)
    codes, leaves = problem(*case)
    W, target, bias = leaves
    options = {"budgets": budgets, "weights": weights, "bias": bias, "impl": impl}
    loss, recon = hierarchical_mse(codes, W, target, keep="last", **options)
    want, recons = by_definition(codes, *leaves, budgets, weights)
    torch.testing.assert_close(loss, want)
    largest = -1 if budgets is None else budgets.index(max(budgets))
    torch.testing.assert_close(recon, recons[largest].detach())
    assert not recon.requires_grad
    inputs = [codes.values, *leaves]
    got = torch.autograd.grad(3 * loss, inputs, retain_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(3 * loss, inputs))  # nothing is used up
    torch.testing.assert_close(got, torch.autograd.grad(3 * want, inputs))


def test_the_loss_alone_needs_no_gradients_and_takes_those_that_are_wanted():
    codes, (W, target, bias) = problem(3, 5, 23, 7)
    with torch.no_grad():
        loss, _ = hierarchical_mse(codes, W, target, bias=bias, keep="last")
    fixed = codes.detach()
    wanted, _ = hierarchical_mse(fixed, W, target.detach(), keep="last", bias=bias.detach())
    (grad,) = torch.autograd.grad(wanted, [W])
    torch.testing.assert_close(loss, wanted.detach())
    assert grad.shape == W.shape


def test_a_row_that_chose_nothing_keeps_its_nan_to_itself():
    codes = SparseCodes(torch.tensor([[2.0, 1.0], [0.0, 0.0]]), torch.tensor([[1, 0], [0, 1]]), 3)
    W = torch.eye(3, requires_grad=True)
    target = torch.tensor([[1.0, 1.0, 1.0], [torch.nan] * 3])
    hierarchical_mse(codes, W, target, keep="last")[0].backward()
    assert torch.isfinite(W.grad).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_one_full_budget_is_decode_mse(impl):
    codes, (W, target, bias) = problem(3, 4, 12, 5)
    loss, recons = hierarchical_mse(codes, W, target, budgets=[5], bias=bias, impl=impl)
    once, recon = decode_mse(codes, W, target, bias=bias, impl=impl)
    torch.testing.assert_close(loss, once)
    torch.testing.assert_close(recons[0], recon)


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_errors_do_not_drift_with_the_budget(impl):
    """In float32, a prefix recovered by subtraction would carry the rounding of what it lost."""
    codes, (W, target, _) = problem(2, 3, 60, 40)
    with torch.no_grad():
        scaled = codes.with_values(codes.values * torch.logspace(4, -4, 40))
        exact = hierarchical_mse(scaled, W, target, impl="reference")[1]
        single = (scaled.to(torch.float32), W.float(), target.float())
        error = (hierarchical_mse(*single, impl=impl)[1] - exact).norm(dim=(1, 2))
    assert float(error.max()) < 1e-5 * float(exact.norm(dim=(1, 2)).max())
    assert float(error[-1]) < 3 * float(error[10])


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_an_optimizer_collects_the_same_gradient(impl):
    codes, (W, target, _) = problem(6, 4, 15, 5)
    W = torch.nn.Parameter(W.detach())
    hierarchical_mse(codes, W, target, budgets=[1, 4], impl=impl)[0].backward()
    dense, W.grad = W.grad, None
    W.row_gradient = RowGradient(15)
    hierarchical_mse(codes, W, target, budgets=[1, 4], impl=impl)[0].backward()
    assert W.grad is None
    torch.testing.assert_close(W.row_gradient.to_dense(), dense)
    for _ in range(2):
        hierarchical_mse(codes, W, target, budgets=[1, 4], impl=impl, keep="last")[0].backward()
    torch.testing.assert_close(W.row_gradient.to_dense(), 3 * dense)


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_gradcheck(impl):
    codes, leaves = problem(2, 3, 8, 4)

    def run(values, *leaves):
        W, target, bias = leaves
        shape = codes.with_values(values)
        return hierarchical_mse(
            shape, W, target, budgets=[1, 3], weights=[0.3, 2.0], bias=bias, impl=impl
        )

    assert torch.autograd.gradcheck(run, (codes.values, *leaves), fast_mode=True)


def test_leading_axes_ragged_rows_and_repeated_indices():
    values = torch.tensor([[[3.0, 2.0], [5.0, 0.0]]])
    codes = SparseCodes(values, torch.tensor([[[1, 1], [2, 0]]]), 3)
    loss, recons = hierarchical_mse(codes, torch.eye(3), torch.zeros(1, 2, 3), budgets=[2, 1])
    assert recons.shape == (2, 1, 2, 3)
    assert recons[:, 0, 0, 1].tolist() == [5.0, 3.0]
    again = hierarchical_mse(codes.to_ragged(), torch.eye(3), torch.zeros(1, 2, 3), budgets=[2, 1])
    assert torch.equal(again[0], loss)


def test_triton_in_half_precision():
    codes, (W, target, _) = problem(3, 8, 20, 6, torch.float32)
    exact, _ = hierarchical_mse(codes, W, target, budgets=[2, 6])
    half = (codes.to(torch.bfloat16), W.bfloat16(), target)
    loss, recons = hierarchical_mse(*half, budgets=[2, 6], impl="triton")
    assert recons.dtype == torch.bfloat16
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"keep": "first"}, ValueError, "`keep` must be one of 'all', 'last'; got 'first'"),
        ({"budgets": [0]}, ValueError, r"`budgets` must be an int in \[1, k\]; got 0 with k=3"),
        ({"budgets": [4]}, ValueError, r"`budgets` must be an int in \[1, k\]"),
        ({"budgets": [1, 1]}, ValueError, "`budgets` must be one or more different numbers"),
        ({"budgets": []}, ValueError, "`budgets` must be one or more different numbers"),
        ({"budgets": [1.0]}, TypeError, "`budgets` must be an int"),
        ({"weights": [1.0]}, ValueError, "`weights` must have one number for each of 3 budgets"),
        ({"weights": [1.0, 2.0, float("nan")]}, ValueError, "`weights` must be a finite number"),
        ({"bias": torch.zeros(3)}, ValueError, "`bias` must have shape"),
        ({"codes": torch.zeros(2, 9)}, TypeError, "`codes` must be a SparseCodes; got Tensor"),
        ({"target": torch.zeros(3, 4)}, ValueError, "`target` must have shape"),
        ({"W_dec": torch.zeros(4, 9)}, ValueError, r"`W_dec` must have shape \(n_latents"),
    ],
)
def test_bad_input_gets_one_sentence(options, error, sentence):
    codes = topk(torch.randn(2, 9), 3)
    given = {"codes": codes, "W_dec": torch.zeros(9, 4), "target": torch.zeros(2, 4), **options}
    with pytest.raises(error, match=sentence):
        hierarchical_mse(**given)
