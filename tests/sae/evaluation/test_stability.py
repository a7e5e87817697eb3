"""Latents are matched one to one."""

import pytest
import torch

import sae
from sae.evaluation import stability
from sae.evaluation.stability import matched_cosines


def test_stability_matches_up_to_order_and_counts_signs() -> None:
    first = sae.TopK(n_features=16, n_latents=12, k=2, seed=0)
    second = sae.TopK(n_features=16, n_latents=12, k=2, seed=0)
    with torch.no_grad():
        second.W_dec.copy_(first.W_dec[torch.randperm(12)])
        second.W_dec[0] *= -1
    found = stability([first, second])
    assert 0.75 <= found["shared"] < 1
    assert found["pairs"][0]["models"] == [0, 1]
    assert stability([first, first, first])["mean_cosine"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="`models` must be two or more autoencoders with decoder"):
        stability([first])


def test_a_sample_of_a_wide_dictionary_finds_its_partners() -> None:
    rows = torch.randn(300, 16)
    found = matched_cosines(rows, rows[torch.randperm(300)], max_latents=40)
    assert len(found) == 40
    assert float(found.min()) > 0.999
