"""KSparse: signed selection, tied weights, the schedule of k, alpha at inference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard

import sae


def test_selection_is_signed_not_by_magnitude():
    model = sae.KSparse(n_features=3, n_latents=3, k=2, seed=0)
    with torch.no_grad():
        model.W_enc.copy_(torch.eye(3))
    codes = model.encode(torch.tensor([[-5.0, -1.0, -2.0]]))
    assert codes.indices.tolist() == [[1, 2]]
    assert codes.values.tolist() == [[-1.0, -2.0]]


def test_weights_are_tied_through_training_and_files(tmp_path):
    model = sae.KSparse(n_features=4, n_latents=9, k=2, seed=0)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model.loss_terms(x, x).terms["mse"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(model.W_dec, model.W_enc.t())
    loaded = sae.load(sae.save(model, tmp_path / "model"))
    assert torch.equal(loaded.W_dec, model.W_dec)
    assert "W_dec" not in model.state_dict()


def test_tied_gradient_adds_both_uses():
    model = sae.KSparse(n_features=4, n_latents=9, k=3, seed=0)
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    model.loss_terms(x, x).terms["mse"].backward()
    W = model.W_enc.detach().double().requires_grad_()
    z = x.double() @ W
    top = z.topk(3)
    recon = torch.zeros_like(z).scatter(1, top.indices, top.values) @ W.t()
    (x - recon).square().sum(1).mean().backward()
    torch.testing.assert_close(model.W_enc.grad.double(), W.grad, rtol=1e-5, atol=1e-6)


def test_k_falls_linearly_over_the_first_half_and_alpha_rules_inference():
    model = sae.KSparse(n_features=4, n_latents=200, k=10, k_start=100, alpha=2.0, seed=0)
    seen = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        model.set_progress(progress)
        seen.append(model.current_k)
    assert seen == [100, 55, 10, 10, 10]
    model.set_progress(0.25)
    x = torch.ones(1, 4)
    assert model.train().encode(x).values.shape[1] == 55
    assert model.eval().encode(x).values.shape[1] == 20
    assert model.encode(x, k=7).values.shape[1] == 7


@given(st.lists(st.integers(0, 127), min_size=2, max_size=2, unique=True), st.floats(0.1, 10))
def test_coherence_theorem(support, size):
    """[I, Hadamard / 8] has coherence 1/8: 2 equal entries (2/8 <= 1/2) are always recovered."""
    atoms = torch.cat([torch.eye(64), torch.tensor(hadamard(64), dtype=torch.float32) / 8])
    model = sae.KSparse(n_features=64, n_latents=128, k=2, seed=0)
    with torch.no_grad():
        model.W_enc.copy_(atoms.t())
    codes = model.encode(size * atoms[support].sum(0, keepdim=True))
    assert sorted(codes.indices.flatten().tolist()) == sorted(support)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k_start": 3}, r"`k_start` must be an int in \[4, n_latents\]; got 3"),
        ({"alpha": 0.0}, "`alpha` must be a finite number"),
        ({"anneal_share": 1.5}, "`anneal_share` must be a finite number"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        sae.KSparse(**{"n_features": 6, "n_latents": 50, "k": 4, **options})
