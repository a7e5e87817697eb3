"""TopK: formulas of the paper, in float64 and without any of our operations."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data


def explicit_losses(model, x, dead, k_aux):
    """The published loss, written densely: residual detached, no decoder bias on either side."""
    z = (x - model.b_dec) @ model.W_enc + model.b_enc
    top = z.topk(model.k)
    code = torch.zeros_like(z).scatter(1, top.indices, top.values.relu())
    recon = code @ model.W_dec + model.b_dec
    mse = (x - recon).square().sum(1).mean()
    residual = (x - recon).detach()
    # The auxiliary gradient reaches the dead latents only, so b_dec enters as a constant.
    z_dead = ((x - model.b_dec.detach()) @ model.W_enc + model.b_enc)[:, dead].relu()
    top = z_dead.topk(min(k_aux, z_dead.shape[1]))
    aux = torch.zeros_like(z_dead).scatter(1, top.indices, top.values) @ model.W_dec[dead]
    return mse, (residual - aux).square().sum(1).mean(), recon


@pytest.fixture
def setting():
    model = sae.TopK(n_features=6, n_latents=50, k=5, k_aux=4, seed=1)
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    model.initialize(x)
    dead = torch.zeros(50, dtype=torch.bool)
    dead[[3, 4, 10, 20, 21, 22, 40]] = True
    return model, x, dead


@pytest.mark.parametrize("n_dead", [1, 4, 7])
@pytest.mark.parametrize("term", ["mse", "auxk"])
def test_every_term_has_the_gradient_of_the_formula(setting, term, n_dead):
    """sparsify's fused encoder drops the gradient of the auxiliary term; see tests/comparison."""
    model, x, dead = setting
    dead[dead.nonzero().flatten()[n_dead:]] = False
    losses = model.loss_terms(x, x, dead_latents=dead)
    got = torch.autograd.grad(losses.terms[term], list(model.parameters()), allow_unused=True)
    model = model.double()
    mse, aux, recon = explicit_losses(model, x.double(), dead, 4)
    want_loss = {"mse": mse, "auxk": model.aux_coefficient * aux}[term]
    want = torch.autograd.grad(want_loss, list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(losses.terms[term].double(), want_loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses.reconstruction.double(), recon, rtol=1e-5, atol=1e-6)
    for g, w in zip(got, want, strict=True):
        zero = torch.zeros(1)
        first, second = (zero if part is None else part for part in (g, w))
        torch.testing.assert_close(first.double(), second.double(), rtol=1e-4, atol=1e-6)


def test_auxk_counts_no_decoder_bias(setting):
    """With zero rows for dead latents the term is the residual's mean squared norm."""
    model, x, dead = setting
    with torch.no_grad():
        model.W_dec[dead] = 0.0
        model.b_dec += 3.0
    losses = model.loss_terms(x, x, dead_latents=dead)
    residual = (x - losses.reconstruction).square().sum(1).mean()
    torch.testing.assert_close(losses.terms["auxk"], model.aux_coefficient * residual)
    grads = torch.autograd.grad(losses.terms["auxk"], list(model.parameters()), allow_unused=True)
    assert grads[[n for n, _ in model.named_parameters()].index("b_dec")] is None


def test_no_dead_latents_no_auxiliary_loss(setting):
    model, x, dead = setting
    assert "auxk" not in model.loss_terms(x, x, dead_latents=None).terms
    assert float(model.loss_terms(x, x, dead_latents=torch.zeros_like(dead)).terms["auxk"]) == 0.0


def test_start_is_tied_with_separate_storage_and_unit_norm():
    model = sae.TopK(n_features=6, n_latents=50, k=5, seed=1)
    assert torch.equal(model.W_enc, model.W_dec.t())
    assert model.W_enc.untyped_storage().data_ptr() != model.W_dec.untyped_storage().data_ptr()
    assert model.W_enc.t().is_contiguous()
    torch.testing.assert_close(torch.linalg.vector_norm(model.W_dec, dim=1), torch.ones(50))


def test_initialize_centers_and_scales(setting):
    _, x, _ = setting
    shifted = x + 100.0
    fresh = sae.TopK(n_features=6, n_latents=50, k=5, seed=1)
    fresh.initialize(shifted)
    assert float((fresh.b_dec.detach() - shifted.median(0).values).abs().max()) < 1.0
    better = (fresh(shifted) - shifted).square().mean().detach()
    fresh.W_enc.data *= 1.1
    assert better < (fresh(shifted) - shifted).square().mean()


def test_k_changes_at_inference(setting):
    model, x, _ = setting
    few, many = model.encode(x, k=2), model.encode(x, k=11)
    assert many.truncate(2) == few
    assert few.n_active.max() <= 2 < many.n_active.max()


def test_decode_does_not_remember_the_last_encode(setting):
    """openai's and Bussmann's decoders keep statistics of the last encoded batch."""
    model, x, _ = setting
    codes = model.encode(x[:3])
    expected = model.decode(codes)
    model.encode(100 * x)
    assert torch.equal(model.decode(codes), expected)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        (
            {"k": 51},
            ValueError,
            r"`k` must be an int in \[1, n_latents\]; got 51 with n_latents=50",
        ),
        ({"k": 0}, ValueError, "`k` must be an int"),
        ({"n_features": 0}, ValueError, "`n_features` must be an int"),
        ({"n_latents": 2.5}, TypeError, "`n_latents` must be an int"),
        ({"aux_coefficient": -1.0}, ValueError, "`aux_coefficient` must be a finite number"),
        ({"k_aux": 0}, ValueError, "`k_aux` must be an int"),
    ],
)
def test_bad_settings_get_one_sentence(options, error, sentence):
    with pytest.raises(error, match=sentence):
        sae.TopK(**{"n_features": 6, "n_latents": 50, "k": 5, **options})


@pytest.mark.parametrize(
    ("x", "error", "sentence"),
    [
        (
            torch.zeros(3, 7),
            ValueError,
            r"`x` must have shape \(..., n_features\) = \(..., 6\); got \(3, 7\)",
        ),
        ([[0.0] * 6], TypeError, "`x` must be a torch.Tensor; got list"),
        (torch.zeros(3, 6, device="meta"), ValueError, "`x` must be on the device of the model"),
    ],
)
def test_bad_input_gets_one_sentence(setting, x, error, sentence):
    with pytest.raises(error, match=sentence):
        setting[0].encode(x)


def test_as_a_jumprelu_k_latents_fire_on_average_with_the_same_values():
    x = make_sparse_data(2000, 12, 30, 3, noise=0.05, seed=0)[0]
    config = sae.TrainConfig(batch_size=128, n_steps=200, progress=False)
    model = sae.Trainer(sae.TopK(n_features=12, n_latents=40, k=3, seed=0), x, config).fit().model
    jump = model.to_jumprelu(x)
    assert float(jump.encode(x).n_active.double().mean()) == pytest.approx(3.0, abs=2 / len(x))
    mine, theirs = model.encode(x).to_dense(), jump.encode(x).to_dense()
    both = (mine != 0) & (theirs != 0)
    torch.testing.assert_close(theirs[both], mine[both], rtol=1e-5, atol=1e-5)
    assert both.sum() > 0.7 * (mine != 0).sum()
    same = ((mine != 0) == (theirs != 0)).all(1)
    torch.testing.assert_close(jump(x)[same], model(x)[same], rtol=1e-5, atol=1e-5)
    fvu = [sae.evaluate(part, x)["fvu"] for part in (jump, model)]
    assert fvu[1] < fvu[0] < 2 * fvu[1]  # these rows have exactly k atoms: TopK is at its best
