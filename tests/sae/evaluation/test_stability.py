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


def dictionaries(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(300, 16, generator=generator)
    if kind == "same":
        return base, base[torch.randperm(300, generator=generator)]
    if kind == "twice":  # every atom twice, against every atom once and others
        return base.repeat(2, 1), torch.cat([base, torch.randn(300, 16, generator=generator)])
    if kind == "one for all":
        return torch.ones(300, 16), torch.ones(300, 16)
    return base, torch.randn(350, 16, generator=generator)


@pytest.mark.parametrize("kind", ["same", "twice", "one for all", "independent"])
def test_wide_dictionaries_are_matched_as_narrow_ones(kind: str) -> None:
    first, second = dictionaries(kind)
    exact = matched_cosines(first, second)
    for pair in ((first, second), (second, first)):
        found = matched_cosines(*pair, max_exact=40)
        assert len(found) == len(exact)
        assert float(found.mean()) == pytest.approx(float(exact.mean()), abs=0.03)
        shares = [float((cosines >= 0.7).double().mean()) for cosines in (found, exact)]
        assert shares[0] == pytest.approx(shares[1], abs=0.02)


def test_latents_that_oppose_all_others_are_matched_too() -> None:
    rows = torch.ones(30, 4) + 0.01 * torch.randn(30, 4)
    assert matched_cosines(rows, -rows, max_exact=5).max() < -0.9
