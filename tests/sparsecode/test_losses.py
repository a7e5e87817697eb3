"""AuxK: the loss on dead latents equals its formula on a dense matrix."""

import pytest
import torch

from sparsecode import losses
from sparsecode.losses import auxk_loss


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
