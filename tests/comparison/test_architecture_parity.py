"""Codes of the further architectures equal those of dictionary_learning, where it is right."""

import pytest
import torch
from torch import Tensor

import sae

Weights = dict[str, Tensor]
FIXED = "this version of dictionary_learning is right here: make this a parity test"


@pytest.fixture
def trainers(dictionary_learning):
    """The package with its trainers; the fixture skips where it is missing."""
    import dictionary_learning.trainers

    return dictionary_learning.trainers


def _ours(kind: type, weights: Weights, **settings) -> sae.AbstractAutoencoder:
    n_latents, n_features = weights["W_dec"].shape
    model = kind(n_features=n_features, n_latents=n_latents, **settings)
    with torch.no_grad():
        for name, value in weights.items():
            getattr(model, name).copy_(value)
    return model


def _fill(theirs: torch.nn.Module, weights: Weights) -> None:
    with torch.no_grad():
        for name, value in weights.items():
            getattr(theirs, name).copy_(value)


def test_batch_topk_in_training_and_at_inference(trainers, weights: Weights, x: Tensor) -> None:
    n_latents, n_features = weights["W_dec"].shape
    theirs = trainers.batch_top_k.BatchTopKSAE(n_features, n_latents, 6)
    with torch.no_grad():
        theirs.encoder.weight.copy_(weights["W_enc"].T)
        theirs.encoder.bias.copy_(weights["b_enc"])
        theirs.decoder.weight.copy_(weights["W_dec"].T)
        theirs.b_dec.copy_(weights["b_dec"])
        theirs.threshold.fill_(0.7)
    ours = _ours(sae.BatchTopK, weights, k=6)
    ours.threshold.fill_(0.7)
    torch.testing.assert_close(
        ours.train().encode(x).to_dense(), theirs.encode(x, use_threshold=False)
    )
    torch.testing.assert_close(ours.eval().encode(x).to_dense(), theirs.encode(x))
    torch.testing.assert_close(ours(x), theirs(x))


def test_batch_topk_counts_all_leading_axes(trainers, weights: Weights, x: Tensor) -> None:
    """Its encoder multiplies k by the first axis: a batch of sequences gets too few latents."""
    n_latents, n_features = weights["W_dec"].shape
    theirs = trainers.batch_top_k.BatchTopKSAE(n_features, n_latents, 6)
    batch = x[:36].reshape(4, 9, n_features)
    active = (theirs.encode(batch, use_threshold=False) > 0).sum()
    assert int(active) == 6 * 4, FIXED
    ours = sae.BatchTopK(n_features=n_features, n_latents=n_latents, k=6, seed=0).train()
    assert int(ours.encode(batch).n_active.sum()) == 6 * 36


def test_matryoshka_codes(trainers, weights: Weights, x: Tensor) -> None:
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE

    n_latents, n_features = weights["W_dec"].shape
    theirs = MatryoshkaBatchTopKSAE(n_features, n_latents, 6, [16, 32, 48])
    _fill(theirs, weights)
    ours = _ours(sae.Matryoshka, weights, k=6, prefixes=[16, 48]).train()
    codes = theirs.encode(x, use_threshold=False)
    torch.testing.assert_close(ours.encode(x).to_dense(), codes)
    theirs.active_groups = 2
    cut = theirs.encode(x, use_threshold=False)
    torch.testing.assert_close(ours.first_latents(ours.encode(x), 48).to_dense(), cut)


def test_jumprelu_codes_and_the_step_on_pre_activations(
    trainers, weights: Weights, x: Tensor
) -> None:
    """Its L0 looks at codes: values within the window but below the threshold teach nothing."""
    from dictionary_learning.dictionary import JumpReluAutoEncoder

    n_latents, n_features = weights["W_dec"].shape
    theirs = JumpReluAutoEncoder(n_features, n_latents)
    weights |= {"threshold": torch.full((n_latents,), 0.8)}
    _fill(theirs, weights)
    settings = {"target_l0": None, "l0_coefficient": 1.0, "bandwidth": 0.4, "pre_bias": False}
    ours = _ours(sae.JumpReLU, weights, **settings)
    torch.testing.assert_close(ours.encode(x).to_dense(), theirs.encode(x))

    jumps = trainers.jumprelu
    codes, z = theirs.encode(x, output_pre_jump=True)
    lower, window = (z < 0.8) & (z > 0.6), (z - 0.8).abs() < 0.2
    assert lower.any()
    jumps.StepFunction.apply(codes, theirs.threshold, 0.4).sum(-1).mean().backward()
    torch.testing.assert_close(
        theirs.threshold.grad, -(window & ~lower).sum(0) / 0.4 / len(x), msg=FIXED
    )
    ours.loss_terms(x, x).terms["l0"].backward()
    torch.testing.assert_close(ours.threshold.grad, -window.sum(0) / 0.4 / len(x))


def test_gated_codes(trainers, weights: Weights, x: Tensor) -> None:
    from dictionary_learning.dictionary import GatedAutoEncoder

    n_latents, n_features = weights["W_dec"].shape
    theirs = GatedAutoEncoder(n_features, n_latents)
    extra = {"r_mag": 0.3 * torch.randn(n_latents), "b_mag": 0.3 * torch.randn(n_latents)}
    with torch.no_grad():
        theirs.encoder.weight.copy_(weights["W_enc"].T)
        theirs.decoder.weight.copy_(weights["W_dec"].T)
        theirs.decoder_bias.copy_(weights["b_dec"])
        theirs.gate_bias.copy_(weights["b_enc"])
        theirs.mag_bias.copy_(extra["b_mag"])
        theirs.r_mag.copy_(extra["r_mag"])
    ours = _ours(sae.Gated, weights | extra)
    torch.testing.assert_close(ours.encode(x).to_dense(), theirs.encode(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
