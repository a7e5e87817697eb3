"""Latents that fire together, against counting by hand."""

import torch

import sae
from sae.cache import as_source
from sae.interpret.coactivation import coactive_latents
from sae.interpret.encoded import EncodedRows


def test_parts_are_those_counted_by_hand() -> None:
    x = torch.randn(500, 8)
    model = sae.TopK(n_features=8, n_latents=20, k=4, seed=0)
    encoded = EncodedRows(model, as_source(x), block_rows=100)
    latents, parts = coactive_latents(encoded, n=3, chunk_size=7)
    fired = (model.encode(x).to_dense() > 0).double()
    both = fired.T @ fired
    counts = fired.sum(0)
    part = both / (counts[:, None] + counts[None] - both)
    part.fill_diagonal_(0)
    expected = part.topk(3, dim=1).values
    torch.testing.assert_close(parts.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(part.gather(1, latents), expected)


def test_a_latent_that_fires_alone_has_no_partner() -> None:
    model = sae.TopK(n_features=4, n_latents=4, k=1, seed=0)
    latents, parts = coactive_latents(EncodedRows(model, as_source(torch.eye(4))), n=2)
    assert (latents == -1).all()
    assert not parts.any()


def test_rows_are_bounded_and_spread() -> None:
    x = torch.randn(400, 8)
    model = sae.TopK(n_features=8, n_latents=16, k=2, seed=0)
    encoded = EncodedRows(model, as_source(x), block_rows=50, keep_bytes=0)
    asked: list[int] = []
    inner = encoded.block

    def block(number: int):
        asked.append(number)
        return inner(number)

    encoded.block = block  # type: ignore[method-assign]
    coactive_latents(encoded, max_rows=150)
    assert asked == [0, 4, 7]
