import numpy as np
import pytest
import torch

import sae
from retrieval import LatentEncoder, contributions
from sparsecode.decomposition import SparseCoder
from sparsecode.solvers import OMP


def test_an_autoencoder_becomes_an_encoder() -> None:
    model = sae.TopK(n_features=6, n_latents=20, k=4, seed=0)
    x = torch.randn(9, 6)
    encoder = LatentEncoder(model, labels={3: "wings"}, normalize=False)
    rows = encoder.encode_documents(x)
    assert np.array_equal(rows.toarray(), model.encode(x).to_dense().detach().numpy())
    assert (encoder.n_dimensions, rows.has_canonical_format) == (20, True)
    assert (encoder.encode_queries(x.numpy()) != rows).nnz == 0
    assert encoder.encode_documents(x, k=2).getnnz(axis=1).max() <= 2
    unit = LatentEncoder(model).encode_documents(x)
    score = (unit[0] @ unit[1].T).toarray()[0, 0]
    ids, values = contributions(unit[0], unit[1])
    assert values.sum() == pytest.approx(float(score), abs=1e-6)
    assert encoder.dimension_names([3, 4]) == ["wings", "latent 4"]
    assert len(ids) == len(values)


def test_a_sparse_coder_becomes_an_encoder() -> None:
    atoms = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    coder = SparseCoder(atoms, solver=OMP(n_nonzero=3))
    x = np.random.default_rng(1).normal(size=(5, 8))
    coder.fit(x)
    rows = LatentEncoder(coder, labels=list("abcdefgh"), normalize=False).encode_documents(x)
    np.testing.assert_allclose(rows.toarray(), coder.transform(x), rtol=1e-5)
    assert LatentEncoder(coder, labels=list("abcdefgh")).dimension_names([1]) == ["b"]


def test_what_is_no_encoder_is_refused() -> None:
    class Dense:
        def encode(self, x):
            return x

    with pytest.raises(TypeError, match=r"`model\.encode` must return a SparseCodes; got Tensor"):
        LatentEncoder(Dense()).encode_documents(torch.ones(2, 3))
    with pytest.raises(TypeError, match="`model` must have `encode"):
        LatentEncoder(object())
    with pytest.raises(ValueError, match="`n_dimensions` must be known; encode something first"):
        _ = LatentEncoder(Dense()).n_dimensions
    with pytest.raises(ValueError, match=r"`X` must have shape \(n_rows, n_features\); got \(3,\)"):
        LatentEncoder(Dense()).encode_documents(torch.ones(3))


@pytest.mark.parametrize("k", [-1, 0, 1.5])
def test_a_wrong_k_is_refused(k: object) -> None:
    encoder = LatentEncoder(sae.TopK(n_features=6, n_latents=20, k=4, seed=0))
    with pytest.raises((ValueError, TypeError), match="`k` must be an int in"):
        encoder.encode_queries(torch.randn(2, 6), k=k)
