"""Matching pursuit with the decoder of an autoencoder."""

import pytest
import torch

import sae
from sparsecode.datasets import make_sparse_data
from sparsecode.solvers import MatchingPursuit

pytestmark = pytest.mark.usefixtures("one_thread")


def data() -> torch.Tensor:
    return make_sparse_data(3000, 24, 64, 4, noise=0.02, seed=0)[0]


@pytest.fixture(scope="module")
def trained():
    config = sae.TrainConfig(batch_size=128, n_steps=400, lr=3e-3, progress=False)
    models = {
        "topk": sae.TopK(n_features=24, n_latents=96, k=4, seed=0),
        "batch_topk": sae.BatchTopK(n_features=24, n_latents=96, k=4, seed=0),
    }
    return {name: sae.Trainer(model, data(), config).fit().model for name, model in models.items()}


@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_it_reconstructs_no_worse_than_the_encoder(trained, name, k):
    model, x = trained[name], data()[:500]
    pursued, encoded = sae.matching_pursuit(model, x, k=k), model.encode(x, k=k)
    error = [(model.decode(codes) - x).square().sum() for codes in (pursued, encoded)]
    assert error[0] <= error[1]
    assert (pursued.n_active <= k).all()


def test_evaluate_takes_it_as_the_method(trained):
    model = trained["topk"]
    plain = sae.evaluate(model, data(), max_rows=500)
    pursued = sae.evaluate(model, data(), max_rows=500, method="matching_pursuit", budgets=[1, 4])
    assert pursued["fvu"] <= plain["fvu"]
    assert pursued["fvu_at_k"]["4"] == pytest.approx(pursued["fvu"], rel=1e-6)
    assert pursued["fvu_at_k"]["1"] > pursued["fvu"]
    with pytest.raises(ValueError, match="`method` must be one of 'encoder', 'matching_pursuit'"):
        sae.evaluate(model, data(), method="pursuit")


def test_it_is_the_solver_where_signs_are_free():
    model = sae.KSparse(n_features=12, n_latents=30, k=3, seed=0)
    x = torch.randn(20, 12)
    found = sae.matching_pursuit(model, x)
    want = MatchingPursuit(3).solve(x, model.W_dec.detach()).codes
    torch.testing.assert_close(found.to_dense(), want.to_dense())


def test_codes_are_not_negative_and_stop_where_nothing_is_left():
    model = sae.TopK(n_features=6, n_latents=20, k=5, seed=0)
    with torch.no_grad():
        model.W_dec.mul_(torch.rand(20, 1) + 0.5)  # free norms: values are those of the rows
    x = torch.stack([model.b_dec, model.b_dec + 2.0 * model.W_dec[7]]).detach()
    codes = sae.matching_pursuit(model, x)
    assert codes.n_active.tolist() == [0, 1]
    assert codes.indices[1, 0] == 7
    torch.testing.assert_close(codes.values[1, 0], torch.tensor(2.0))
    assert (sae.matching_pursuit(model, torch.randn(50, 6)).values >= 0).all()


def test_shapes_dtypes_and_chunks(monkeypatch):
    model = sae.TopK(n_features=6, n_latents=20, k=5, seed=0)
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    whole = sae.matching_pursuit(model, x)
    assert whole.shape == (4, 3, 20)
    assert whole.dtype == torch.float64
    monkeypatch.setattr("sae.pursuit.CHUNK_ENTRIES", 40)
    chunked = sae.matching_pursuit(model, x).to_dense()
    torch.testing.assert_close(chunked, whole.to_dense(), rtol=1e-5, atol=1e-5)  # float32 weights
    assert sae.matching_pursuit(model, x[:0]).shape == (0, 3, 20)


@pytest.mark.parametrize("norm", ["layer_norm", "unit_norm"])
def test_rows_are_normalized_first_where_the_model_does(norm):
    model = sae.TopK(n_features=6, n_latents=20, k=2, row_norm=norm, seed=0)
    with torch.no_grad():
        model.b_dec.copy_(torch.linspace(-0.2, 0.2, 6))
    x = 5.0 * torch.randn(40, 6) + 1.0
    codes = sae.matching_pursuit(model, x)
    torch.testing.assert_close(sae.matching_pursuit(model, 3.0 * x).values, codes.values)
    error = (model.reconstruct(x, codes) - x).norm(dim=1)
    assert (error < x.norm(dim=1)).all()
    best = model.reconstruct(x, sae.matching_pursuit(model, x, k=20))
    assert (best - x).norm() < 0.5 * error.norm()


def test_what_it_cannot_serve():
    for model in (
        sae.Transcoder(n_features=6, n_latents=20, k=2),
        sae.Bilinear(n_features=6, n_latents=20),
    ):
        with pytest.raises(TypeError, match="matching pursuit needs a decoder in the sp"):
            sae.matching_pursuit(model, torch.ones(2, 6), k=2)
    with pytest.raises(ValueError, match="`k` must be given for ReLU, which has no k of its own"):
        sae.matching_pursuit(sae.ReLU(n_features=6, n_latents=20), torch.ones(2, 6))
    with pytest.raises(ValueError, match="`k` must be an int"):
        sae.matching_pursuit(sae.TopK(n_features=6, n_latents=20, k=2), torch.ones(2, 6), k=21)
