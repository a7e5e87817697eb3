"""KSparse: signed selection, tied weights, the schedule of k, alpha at inference."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.linalg import hadamard

import sae
from sparsecode.metrics import coherence


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


def incoherent(d):
    """Return [I, Hadamard / sqrt(d)]: 2 d atoms of coherence ``1 / sqrt(d)``."""
    return torch.cat([torch.eye(d), torch.tensor(hadamard(d), dtype=torch.float32) / d**0.5])


ATOMS = {d: incoherent(d) for d in (64, 256)}


def support_found(atoms, values, order):
    """Return the ids that the encoder with these atoms finds in the sum of values and atoms."""
    model = sae.KSparse(n_features=atoms.shape[1], n_latents=len(atoms), k=len(order), seed=0)
    with torch.no_grad():
        model.W_enc.copy_(atoms.t())
    codes = model.encode(torch.tensor(values) @ atoms[order])
    return sorted(codes.indices.tolist())


@given(st.sampled_from([64, 256]), st.integers(1, 7), st.floats(0.1, 10.0), st.data())
def test_coherence_theorem(d, k, largest, data):
    """If ``k mu <= z_k / (2 z_1)``, the k largest of ``W^T x`` are the support of ``x = W z``.

    Values go down to the smallest that the theorem allows, and a thousandth for rounding.
    """
    lowest = 2 * k * 1.001 / d**0.5
    assume(lowest <= 1.0)
    ids = st.integers(0, 2 * d - 1)
    support = data.draw(st.lists(ids, min_size=k, max_size=k, unique=True))
    shares = data.draw(st.lists(st.floats(lowest, 1.0), min_size=k - 1, max_size=k - 1))
    values = [largest, *(largest * share for share in shares)]
    assert support_found(ATOMS[d], values, support) == sorted(support)


@pytest.mark.parametrize("d", ATOMS)
def test_the_atoms_of_the_theorem_are_as_incoherent_as_said(d):
    assert coherence(ATOMS[d]) == pytest.approx(d**-0.5)


def test_without_the_bound_of_the_theorem_the_support_can_be_missed():
    """The counterpart: 20 of 128 atoms with mu = 1/8, where ``k mu`` is 2.5."""
    support = torch.randperm(128)[:20].tolist()
    assert support_found(ATOMS[64], [1.0] * 20, support) != sorted(support)


def test_the_start_of_the_paper_is_small_and_without_biases():
    model = sae.KSparse(n_features=400, n_latents=100, k=5, start="small", seed=0)
    model.initialize(torch.randn(50, 400) + 7.0)
    assert float(model.W_enc.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not model.b_enc.any()
    assert not model.b_dec.any()
    centered = sae.KSparse(n_features=400, n_latents=100, k=5, seed=0)
    rows = torch.randn(50, 400) + 7.0
    centered.initialize(rows)
    torch.testing.assert_close(centered.b_dec.detach(), rows.mean(0))
    error = centered(rows.mean(0, keepdim=True)) - rows.mean(0)
    assert float(error.detach().abs().max()) < 1e-3


def test_a_schedule_keeps_units_alive(sparsecode_data):
    """The protocol of ``tests/benchmarks/bench_k_sparse.py`` on fewer images and units."""
    file = sparsecode_data / "mnist_17k.npz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with np.load(file) as content:
        X = torch.from_numpy(content["x_train"][:3000]).reshape(-1, 784).float() / 255
    dead = {}
    for k_start in (None, 100):
        model = sae.KSparse(
            n_features=784, n_latents=500, k=10, k_start=k_start, start="small", seed=0
        )
        config = sae.TrainConfig(
            batch_size=64, n_steps=600, lr=1e-3, warmup_share=0.0, decay_share=0.0,
            heldout_fraction=0.0, progress=False,
        )  # fmt: skip
        sae.Trainer(model, X, config).fit()
        codes = model.encode(X)
        fired = torch.zeros(500, dtype=torch.bool).index_fill(0, codes.indices.flatten(), True)
        dead[k_start] = 1 - float(fired.double().mean())
    assert dead[None] > 2 * dead[100]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k_start": 3}, r"`k_start` must be an int in \[4, n_latents\]; got 3"),
        ({"alpha": 0.0}, "`alpha` must be a finite number"),
        ({"start": "tiny"}, "`start` must be"),
        ({"anneal_share": 1.5}, "`anneal_share` must be a finite number"),
    ],
)
def test_bad_settings_get_one_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        sae.KSparse(**{"n_features": 6, "n_latents": 50, "k": 4, **options})
