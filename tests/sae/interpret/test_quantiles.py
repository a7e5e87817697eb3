"""Quantiles from two passes are those of all values at once."""

import numpy as np
import pytest
import torch

import sae
from sae.cache import as_source
from sae.interpret import EncodedRows, activation_quantiles


def test_quantiles_are_those_of_numpy() -> None:
    x = torch.randn(3000, 8)
    model = sae.TopK(n_features=8, n_latents=20, k=4, seed=0)
    encoded = EncodedRows(model, as_source(x), block_rows=700, keep_bytes=0)
    shares = [0.0, 0.25, 0.5, 0.9, 1.0]
    found = activation_quantiles(encoded, shares)
    dense = model.encode(x).to_dense().detach().numpy()
    for latent in range(20):
        fired = dense[:, latent][dense[:, latent] > 0]
        expected = np.quantile(fired, shares, method="inverted_cdf")
        assert found[latent].numpy() == pytest.approx(expected, rel=0.003), latent


def test_a_latent_that_never_fires_has_zeros() -> None:
    model = sae.TopK(n_features=4, n_latents=64, k=1, seed=0)
    found = activation_quantiles(EncodedRows(model, as_source(torch.eye(4))), [0.5])
    assert int((found > 0).sum()) == len(model.encode(torch.eye(4)).indices.unique())


def test_shares_are_checked() -> None:
    model = sae.TopK(n_features=4, n_latents=8, k=1, seed=0)
    with pytest.raises(ValueError, match=r"`quantiles` must be a finite number in \[0, 1\]"):
        activation_quantiles(EncodedRows(model, as_source(torch.eye(4))), [1.5])
