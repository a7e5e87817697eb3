"""Codes, reconstruction, loss and gradients of `sae.TopK` equal those of three public libraries."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sklearn.decomposition
import torch
from torch import Tensor

import sae
from sparsecode import SparseCodes, decode_mse

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Peer:
    """A peer's model in our terms: dense codes, reconstruction, and gradients under our names."""

    encode: Callable[[Tensor], Tensor]
    reconstruct: Callable[[Tensor], Tensor]
    parameters: dict[str, tuple[Tensor, bool]]  # our name -> (its parameter, is it transposed)

    def gradients(self) -> Weights:
        """Return the gradients in our shapes."""
        return {name: p.grad.T if flip else p.grad for name, (p, flip) in self.parameters.items()}


def _filled(parameters: dict[str, tuple[Tensor, bool]], weights: Weights) -> dict:
    with torch.no_grad():
        for name, (parameter, flip) in parameters.items():
            parameter.copy_(weights[name].T if flip else weights[name])
    return parameters


def _sparsify(module, weights: Weights, k: int) -> Peer:
    n_latents, n_features = weights["W_dec"].shape
    coder = module.SparseCoder(n_features, module.SparseCoderConfig(num_latents=n_latents, k=k))
    parameters = {
        "W_enc": (coder.encoder.weight, True),
        "b_enc": (coder.encoder.bias, False),
        "W_dec": (coder.W_dec, False),
        "b_dec": (coder.b_dec, False),
    }

    def encode(x: Tensor) -> Tensor:
        values, indices, _ = coder.encode(x)
        return torch.zeros(len(x), n_latents).scatter(1, indices, values)

    return Peer(encode, lambda x: coder(x).sae_out, _filled(parameters, weights))


def _sae_lens(module, weights: Weights, k: int) -> Peer:
    n_latents, n_features = weights["W_dec"].shape
    config = module.TopKTrainingSAEConfig(d_in=n_features, d_sae=n_latents, k=k, device="cpu")
    model = module.TopKTrainingSAE(config)
    parameters = {name: (getattr(model, name), False) for name in weights}
    return Peer(model.encode, model, _filled(parameters, weights))


def _dictionary_learning(module, weights: Weights, k: int) -> Peer:
    n_latents, n_features = weights["W_dec"].shape
    model = module.AutoEncoderTopK(n_features, n_latents, k)
    parameters = {
        "W_enc": (model.encoder.weight, True),
        "b_enc": (model.encoder.bias, False),
        "W_dec": (model.decoder.weight, True),
        "b_dec": (model.b_dec, False),
    }
    return Peer(model.encode, model, _filled(parameters, weights))


PEERS = {
    "sparsify": _sparsify,
    "sae_lens": _sae_lens,
    "dictionary_learning": _dictionary_learning,
}


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest, weights: Weights) -> Peer:
    """Return each library's model in turn, with the common weights and K."""
    return PEERS[request.param](request.getfixturevalue(request.param), weights, 6)


@pytest.fixture
def ours(weights: Weights) -> sae.TopK:
    """Return our model with the common weights and K."""
    n_latents, n_features = weights["W_dec"].shape
    model = sae.TopK(n_features=n_features, n_latents=n_latents, k=6)
    model.load_state_dict(weights)
    return model


def test_codes_are_equal(ours: sae.TopK, peer: Peer, x: Tensor) -> None:
    codes = ours.encode(x)
    expected = peer.encode(x).detach()
    assert bool((codes.n_active == 6).all()), "the comparison needs 6 positive latents a row"
    torch.testing.assert_close(codes.to_dense().detach(), expected)


def test_reconstructions_are_equal(ours: sae.TopK, peer: Peer, x: Tensor) -> None:
    torch.testing.assert_close(ours(x), peer.reconstruct(x))


def test_loss_and_gradients_are_equal(ours: sae.TopK, peer: Peer, x: Tensor) -> None:
    loss = (peer.reconstruct(x) - x).pow(2).sum(1).mean()
    loss.backward()
    expected = peer.gradients()
    mse = ours.loss_terms(x, x, dead_latents=None).terms["mse"]
    mse.backward()
    torch.testing.assert_close(mse, loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            getattr(ours, name).grad, gradient, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_dictionary_learning_takes_the_same_mean_over_rows(
    dictionary_learning, ours: sae.TopK, weights: Weights, x: Tensor
) -> None:
    n_latents, n_features = weights["W_dec"].shape
    trainer = dictionary_learning.TopKTrainer(
        steps=2000, activation_dim=n_features, dict_size=n_latents, k=6, layer=0, lm_name="none",
        device="cpu",
    )  # fmt: skip
    trainer.ae.load_state_dict({
        **trainer.ae.state_dict(),
        "encoder.weight": weights["W_enc"].T, "encoder.bias": weights["b_enc"],
        "decoder.weight": weights["W_dec"].T, "b_dec": weights["b_dec"],
    })  # fmt: skip
    theirs = trainer.loss(x, step=0)
    torch.testing.assert_close(ours.loss_terms(x, x, dead_latents=None).terms["mse"], theirs)


def test_orthonormal_dictionary_gives_orthogonal_matching_pursuit() -> None:
    """With orthonormal atoms and positive codes the k largest correlations are OMP's answer."""
    n, d, k = 20, 16, 4
    basis = torch.linalg.qr(torch.randn(d, d)).Q
    code = torch.rand(n, d) + 0.1
    model = sae.TopK(n_features=d, n_latents=d, k=k)
    model.load_state_dict(
        {"W_enc": basis.T, "b_enc": torch.zeros(d), "W_dec": basis, "b_dec": torch.zeros(d)}
    )
    x = code @ basis
    expected = sklearn.decomposition.sparse_encode(
        x.numpy(), basis.numpy(), algorithm="omp", n_nonzero_coefs=k
    )
    actual = model.encode(x).to_dense().detach()
    torch.testing.assert_close(actual, torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-5)


def test_decode_mse_agrees_with_scikit_learn_on_explained_variance() -> None:
    """A mean-only reconstruction explains nothing; both count per-dimension deviations."""
    from sklearn.metrics import r2_score

    target = torch.randn(50, 5) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]) + 7.0
    codes = SparseCodes(torch.rand(50, 2), torch.randint(0, 9, (50, 2)), 9)
    loss, recon = decode_mse(codes, torch.randn(9, 5), target, bias=target.mean(0))
    total = (target - target.mean(0)).pow(2).sum(1).mean()
    expected = r2_score(target.numpy(), recon.numpy(), multioutput="variance_weighted")
    assert float(1 - loss / total) == pytest.approx(expected, rel=1e-5)
