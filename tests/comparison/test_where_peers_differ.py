"""Where a public library is wrong, in its installed version, and what we do instead.

The judge is plain autograd in float64 on the formula of the paper. Each test shows first that the
library still departs from it (else the test fails, and says that it should become a parity test),
then that we do not.
"""

from types import ModuleType

import pytest
import torch
from torch import Tensor

import sae
from sparsecode import encode_topk

Weights = dict[str, Tensor]
FIXED = "this version of {} is right here: make this a parity test"


def _sparsify_coder(module: ModuleType, weights: Weights, **config):
    n_latents, n_features = weights["W_dec"].shape
    coder = module.SparseCoder(
        n_features, module.SparseCoderConfig(num_latents=n_latents, **config)
    )
    with torch.no_grad():
        coder.encoder.weight.copy_(weights["W_enc"].T)
        coder.encoder.bias.copy_(weights["b_enc"])
        coder.W_dec.copy_(weights["W_dec"])
        coder.b_dec.copy_(weights["b_dec"])
    return coder


def _ours(weights: Weights, k: int) -> sae.TopK:
    n_latents, n_features = weights["W_dec"].shape
    model = sae.TopK(n_features=n_features, n_latents=n_latents, k=k)
    model.load_state_dict(weights)
    return model


def _double(weights: Weights) -> Weights:
    return {name: value.double().requires_grad_() for name, value in weights.items()}


def _pre_activations(x: Tensor, w: Weights) -> Tensor:
    return ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()


def _top(z: Tensor, k: int) -> Tensor:
    values, indices = z.topk(k)
    return torch.zeros_like(z).scatter(1, indices, values)


def _aux_by_formula(x: Tensor, w: Weights, dead: Tensor, k: int, k_aux: int) -> Tensor:
    """Return ``mean ||e - e_hat||^2``: e detached, no bias in e_hat, the pre-bias constant."""
    z = _pre_activations(x, w)
    e = (x - _top(z, k) @ w["W_dec"] - w["b_dec"]).detach()
    frozen = w | {"b_dec": w["b_dec"].detach()}
    z_dead = torch.where(dead, _pre_activations(x, frozen), -1.0)
    return (e - _top(z_dead, k_aux).relu() @ w["W_dec"]).pow(2).sum(1).mean()


@pytest.fixture
def dead() -> Tensor:
    """Every third latent dead: 32 of 96, more than the d / 2 = 12 that may speak."""
    return torch.arange(96) % 3 == 0


def test_aux_loss_reaches_the_encoder(
    sparsify: ModuleType, weights: Weights, x: Tensor, dead: Tensor
) -> None:
    """The backward of sparsify's fused encoder ignores the gradient of the pre-activations."""
    weights["b_enc"][dead] -= 3.0  # dead latents are not among the top k
    coder = _sparsify_coder(sparsify, weights, k=6)
    coder(x, dead_mask=dead).auxk_loss.backward()
    theirs = coder.encoder.weight.grad
    assert theirs is None or not theirs.any(), FIXED.format("sparsify")

    truth = _double(weights)
    _aux_by_formula(x.double(), truth, dead, k=6, k_aux=12).backward()
    model = _ours(weights, k=6)
    (model.loss_terms(x, x, dead_latents=dead).terms["auxk"] / model.aux_coefficient).backward()
    assert truth["W_enc"].grad.any()
    for name in ("W_enc", "b_enc", "W_dec"):
        torch.testing.assert_close(
            getattr(model, name).grad.double(), truth[name].grad, atol=1e-5, rtol=1e-4
        )
    assert model.b_dec.grad is None or not model.b_dec.grad.any()


@pytest.mark.parametrize("library", ["sparsify", "sae_lens"])
def test_aux_loss_counts_the_decoder_bias_once(
    request: pytest.FixtureRequest, library: str, weights: Weights, x: Tensor, dead: Tensor
) -> None:
    """Older versions added ``b_dec`` to the auxiliary decode; the installed ones agree with us."""
    module = request.getfixturevalue(library)
    weights["b_enc"][dead] += 1.0  # all that speak are positive: SAELens has no ReLU here
    expected = _aux_by_formula(x.double(), _double(weights), dead, k=6, k_aux=12)
    if library == "sparsify":
        theirs = _sparsify_coder(module, weights, k=6)(x, dead_mask=dead).auxk_loss
        theirs = theirs * (x - x.mean(0)).pow(2).sum() / len(x)
    else:
        model = module.TopKTrainingSAE(
            module.TopKTrainingSAEConfig(d_in=24, d_sae=96, k=6, device="cpu")
        )
        model.load_state_dict(weights)
        codes, z = model.encode_with_hidden_pre(x)
        theirs = model.calculate_topk_aux_loss(x, model.decode(codes), z, dead)
    assert float(theirs) == pytest.approx(float(expected), rel=1e-5)
    ours = _ours(weights, k=6)
    auxk = ours.loss_terms(x, x, dead_latents=dead).terms["auxk"] / ours.aux_coefficient
    assert float(auxk) == pytest.approx(float(expected), rel=1e-5)


def test_picks_of_value_zero_get_no_gradient(
    sparsify: ModuleType, weights: Weights, x: Tensor
) -> None:
    """A row with fewer than k positive latents is filled up with zeros, which must not learn."""
    weights["b_enc"] -= 3.0
    truth = _double(weights)
    z = _pre_activations(x.double(), truth)
    assert bool(((z > 0).sum(1) < 6).any()), "the test needs rows with few positive latents"
    (_top(z, 6) @ truth["W_dec"] + truth["b_dec"] - x).pow(2).sum(1).mean().backward()

    coder = _sparsify_coder(sparsify, weights, k=6)
    (coder(x).sae_out - x).pow(2).sum(1).mean().backward()
    leaked = (coder.encoder.weight.grad.T - truth["W_enc"].grad).abs().max()
    assert float(leaked) > 1e-3, FIXED.format("sparsify")

    model = _ours(weights, k=6)
    model.loss_terms(x, x, dead_latents=None).terms["mse"].backward()
    for name, parameter in truth.items():
        torch.testing.assert_close(
            getattr(model, name).grad.double(), parameter.grad, atol=1e-5, rtol=1e-4
        )


def test_a_row_without_positive_latents_teaches_the_encoder_nothing(
    sparsify: ModuleType, weights: Weights, x: Tensor
) -> None:
    weights["b_enc"][:] = -100.0
    coder = _sparsify_coder(sparsify, weights, k=6)
    (coder(x).sae_out - x).pow(2).sum(1).mean().backward()
    assert coder.encoder.weight.grad.any(), FIXED.format("sparsify")

    model = _ours(weights, k=6)
    losses = model.loss_terms(x, x, dead_latents=None)
    losses.terms["mse"].backward()
    assert not model.W_enc.grad.any()
    assert not model.b_enc.grad.any()
    assert not model.W_dec.grad.any()
    assert losses.codes.n_active.sum() == 0


@pytest.mark.parametrize("library", ["sparsify", "dictionary_learning"])
def test_a_latent_that_is_zero_has_not_fired(
    request: pytest.FixtureRequest, library: str, weights: Weights, x: Tensor
) -> None:
    """Both libraries count every selected index as fired, so never-firing latents look alive."""
    module = request.getfixturevalue(library)
    weights["b_enc"][:] = -100.0
    if library == "sparsify":
        selected = _sparsify_coder(module, weights, k=6)(x).latent_indices.unique()
    else:
        trainer = module.TopKTrainer(
            steps=2000, activation_dim=24, dict_size=96, k=6, layer=0, lm_name="none", device="cpu"
        )
        trainer.ae.encoder.bias.data.fill_(-100.0)
        trainer.loss(x, step=0)
        selected = (trainer.num_tokens_since_fired == 0).nonzero()
    assert len(selected) > 0, FIXED.format(library)

    codes = _ours(weights, k=6).encode(x)
    assert not bool((codes.values > 0).any())
    assert codes.to_scipy().nnz == 0


def test_a_second_budget_does_not_replace_the_code(
    sparsify: ModuleType, weights: Weights, x: Tensor
) -> None:
    """With Multi-TopK sparsify returns the 4k code, and counts it as fired; ours stays k wide."""
    coder = _sparsify_coder(sparsify, weights, k=6, multi_topk=True)
    assert coder(x).latent_indices.shape == (len(x), 24), FIXED.format("sparsify")
    model = _ours(weights, k=6)
    wide = model.encode(x, k=24)
    assert wide.values.shape == (len(x), 24)
    assert model.encode(x).values.shape == (len(x), 6)
    assert wide.truncate(6) == model.encode(x)


def test_ties_go_to_the_lower_id() -> None:
    """`torch.topk` breaks ties as it likes; with us equal latents come in order of their id."""
    x, w_enc = torch.ones(3, 4), torch.ones(4, 50)
    codes = encode_topk(x, w_enc, None, 5)
    assert codes.indices.tolist() == [[0, 1, 2, 3, 4]] * 3
