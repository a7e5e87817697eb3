"""Latent pages say of each latent what its codes say."""

import pytest
import torch

import sae
from sae.cache import as_source
from sae.interpret import logit_lens
from sae.interpret.encoded import EncodedRows
from sae.interpret.pages import LatentPages


def test_pages_of_a_cache(word_cache) -> None:
    model = sae.TopK(n_features=16, n_latents=24, k=3, seed=0)
    source = word_cache.at("encoder.layer.1")
    pages = LatentPages(EncodedRows(model, source), word_cache.vocabulary, n_top=3)
    found = list(pages)
    dense = model.encode(source.rows(0, source.n_rows)).to_dense().detach()
    assert [page.latent for page in found] == list(range(24))
    for page in found:
        values = dense[:, page.latent]
        assert page.count == int((values > 0).sum())
        assert page.maximum == pytest.approx(float(values.max().clamp(min=0)))
        assert sum(count for _, count in page.histogram) == page.count
        assert len(page.neighbors) == 6
        assert len([e for e in page.examples if e.group == 0]) <= 3
        for example in page.examples:
            assert float(values[example.row]) == pytest.approx(example.value)
            assert example.values[example.center] == pytest.approx(example.value)
            assert len(example.tokens) == len(example.values)
        assert bool(page.peaks) == any(e.group == 0 for e in page.examples)


def test_pages_of_rows_without_tokens_and_with_logits(gpt2_lm) -> None:
    model = sae.TopK(n_features=16, n_latents=12, k=2, seed=0)
    encoded = EncodedRows(model, as_source(torch.randn(60, 16)))
    lens = logit_lens(gpt2_lm, model, n=2)
    pages = LatentPages(encoded, None, n_top=2, lens=lens, lens_vocabulary=["\u0120a"] * 39)
    page = next(iter(pages))
    assert page.examples
    assert all(not example.tokens for example in page.examples)
    assert [value for _, value in page.promoted] == pytest.approx(lens.top_logits[0].tolist())
    assert {token for token, _ in page.promoted} <= {" a", "<39>"}
    assert page.peaks == []
    assert sum(count for _, count in page.logit_bars) == 40
    assert [center for center, _ in page.logit_bars] == lens.bar_centers[0].tolist()


def test_the_neurons_that_a_latent_writes_to() -> None:
    model = sae.TopK(n_features=4, n_latents=3, k=2, seed=0)
    with torch.no_grad():
        model.W_dec.copy_(torch.tensor([[0.1, -0.9, 0.5, 0.5], [0.0] * 4, [0.0, 0.0, 2.0, 0.0]]))
    pages = list(LatentPages(EncodedRows(model, as_source(torch.randn(30, 4))), None))
    places, values, shares = zip(*pages[0].aligned, strict=True)
    assert (set(places[:2]), places[2]) == ({2, 3}, 0)
    assert values == pytest.approx([0.5, 0.5, 0.1])
    assert shares == pytest.approx([0.25, 0.25, 0.05])
    assert pages[1].aligned[0][1:] == (0.0, 0.0)
    assert pages[2].aligned[0] == (2, 2.0, 1.0)
    assert pages[0].logit_bars == []  # without a language model
    bilinear = sae.Bilinear(n_features=4, n_latents=3, seed=0)
    pages = list(LatentPages(EncodedRows(bilinear, as_source(torch.randn(30, 4))), None))
    assert pages[0].aligned == []


def test_the_number_of_examples_is_checked() -> None:
    model = sae.TopK(n_features=4, n_latents=8, k=2, seed=0)
    with pytest.raises(ValueError, match="`n_top` must be an int in"):
        LatentPages(EncodedRows(model, as_source(torch.eye(4))), None, n_top=0)
