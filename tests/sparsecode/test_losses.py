"""Loss terms equal their formulas on dense matrices: AuxK, energies of products, density."""

import pytest
import torch

from sparsecode import losses
from sparsecode.losses import auxk_loss, hoyer_density, outer_product_energy


def problem(n=17, d=5, f=30, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    W_enc, b_enc, W_dec = (t.requires_grad_() for t in (draw(d, f), draw(f), draw(f, d)))
    return draw(n, d), draw(n, d), W_enc, b_enc, W_dec


def by_formula(x, e, W_enc, b_enc, W_dec, dead, k_aux):
    z = (x @ W_enc + b_enc).relu().masked_fill(~dead, 0.0)
    top = z.topk(k_aux)
    code = torch.zeros_like(z).scatter(1, top.indices, top.values)
    return (e - code @ W_dec).square().sum(1).mean()


@pytest.mark.parametrize("chunk", [1, 40, 1 << 21])
@pytest.mark.parametrize("k_aux", [1, 4, 9, 30])
def test_loss_and_gradients(monkeypatch, chunk, k_aux):
    monkeypatch.setattr(losses, "CHUNK_ENTRIES", chunk)
    x, e, *weights = problem()
    dead = torch.arange(30) % 3 == 1
    got = auxk_loss(x, e, *weights, dead_latents=dead, k_aux=k_aux)
    want = by_formula(x, e, *weights, dead, min(k_aux, int(dead.sum())))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(3 * got, weights), torch.autograd.grad(3 * want, weights)
    )


def test_nothing_flows_to_input_and_residual():
    x, e, *weights = problem()
    x.requires_grad_()
    e.requires_grad_()
    loss = auxk_loss(x, e, *weights, dead_latents=torch.ones(30, dtype=torch.bool), k_aux=2)
    assert torch.autograd.grad(loss, [x, e], allow_unused=True) == (None, None)


def test_autocast_changes_nothing():
    x, e, *weights = problem(dtype=torch.float32)
    dead = torch.ones(30, dtype=torch.bool)
    plain = auxk_loss(x, e, *weights, dead_latents=dead, k_aux=4)
    with torch.autocast("cpu", torch.bfloat16):
        cast = auxk_loss(x, e, *weights, dead_latents=dead, k_aux=4)
    assert torch.equal(plain, cast)


@pytest.mark.parametrize("case", ["nobody dead", "no rows"])
def test_empty_cases_are_zero(case):
    x, e, *weights = problem(n=0 if case == "no rows" else 3)
    dead = torch.full((30,), case == "no rows")
    assert float(auxk_loss(x, e, *weights, dead_latents=dead, k_aux=2)) == 0.0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"dead_latents": torch.ones(4, dtype=torch.bool)},
            r"`dead_latents` must have shape \(n_latents,\) = \(30,\)",
        ),
        ({"k_aux": 0}, "`k_aux` must be an int"),
        ({"residual": torch.zeros(17, 4)}, "`residual` must have shape"),
        ({"x": torch.zeros(17, 4)}, "`x` must have shape"),
    ],
)
def test_bad_input_gets_one_sentence(change, sentence):
    x, e, W_enc, b_enc, W_dec = problem()
    arguments = {"x": x, "residual": e, "W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec}
    options = {"dead_latents": torch.ones(30, dtype=torch.bool), "k_aux": 2}
    with pytest.raises(ValueError, match=sentence):
        auxk_loss(**{**arguments, **options, **change})


def products(n=9, d=5, f=13):
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, f), (f, d), (f, d))
    return [torch.randn(s, generator=generator).double().requires_grad_() for s in shapes]


@pytest.mark.parametrize("chunk", [1, 40, 1 << 21])
@pytest.mark.parametrize("ordered", [False, True])
def test_outer_product_energy_and_its_gradients(monkeypatch, chunk, ordered):
    monkeypatch.setattr(losses, "CHUNK_ENTRIES", chunk)
    g, left, right = leaves = products()
    importance = torch.arange(13, 0, -1).double() / 13 if ordered else None
    got = outer_product_energy(g, left, right, importance=importance)
    atoms = torch.einsum("fd,fe->fde", left, right)
    want = torch.stack(
        [
            torch.einsum("nf,fde->nde", g[:, :k], atoms[:k]).square().sum((1, 2)).mean()
            for k in (range(1, 14) if ordered else [13])
        ]
    ).mean()
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(3 * got, leaves), torch.autograd.grad(3 * want, leaves)
    )


def test_outer_product_energy_gradcheck_and_no_rows():
    leaves = products(3, 2, 4)
    assert torch.autograd.gradcheck(outer_product_energy, leaves)
    assert float(outer_product_energy(leaves[0][:0], *leaves[1:]).detach()) == 0


def test_outer_product_energy_refuses_other_shapes():
    g, left, right = products()
    with pytest.raises(ValueError, match=r"`coefficients` must have shape \(..., n_latents\)"):
        outer_product_energy(g[:, 1:], left, right)
    with pytest.raises(ValueError, match="`right` must have shape"):
        outer_product_energy(g, left, right[1:])
    with pytest.raises(ValueError, match="`importance` must have shape"):
        outer_product_energy(g, left, right, importance=torch.ones(3))


def test_hoyer_density_of_one_all_and_no_values():
    one, all_equal = torch.zeros(4, 1), torch.full((4, 1), -3.0)
    one[2] = 5.0
    assert float(hoyer_density(one)) == pytest.approx(0.0, abs=1e-6)
    assert float(hoyer_density(all_equal)) == pytest.approx(1.0)
    assert float(hoyer_density(torch.zeros(4, 1))) == 0
    both = torch.cat([one, all_equal], 1)
    assert float(hoyer_density(both, weights=torch.tensor([1.0, 3.0]))) == pytest.approx(0.75)
    for size in (1e-25, 1e25):
        assert float(hoyer_density(size * both)) == pytest.approx(0.5)


@pytest.mark.parametrize("n_rows", [0, 1])
def test_hoyer_density_of_too_few_rows_is_zero(n_rows):
    assert float(hoyer_density(torch.ones(n_rows, 3))) == 0


def test_hoyer_density_has_gradients_also_where_a_latent_is_silent():
    values = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    values[:, 1] = 0
    values.requires_grad_()
    (grad,) = torch.autograd.grad(hoyer_density(values), values)
    assert bool(torch.isfinite(grad).all())
    live = values.detach()[:, [0, 2]].requires_grad_()
    assert torch.autograd.gradcheck(hoyer_density, live)
