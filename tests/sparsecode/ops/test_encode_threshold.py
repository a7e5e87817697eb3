"""Encoding with thresholds: that of the dense pre-activations."""

import pytest
import torch

from sparsecode import encode_threshold, threshold
from sparsecode.ops.encode_threshold import api


@pytest.mark.parametrize("entries", [1 << 22, 40], ids=["at_once", "in_parts"])
@pytest.mark.parametrize("theta", [0.5, torch.linspace(-1, 2, 17)], ids=["one", "each"])
def test_encode_threshold_is_the_threshold_of_the_dense_pre_activations(
    theta, entries, monkeypatch
):
    monkeypatch.setattr(api, "CHUNK_ENTRIES", entries)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 5), (5, 17), (17,), (5,)]
    inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    x, W, b, shift = inputs
    codes = encode_threshold(x, W, b, theta, pre_bias=shift)
    dense = threshold((x - shift) @ W + b, theta)
    assert codes.shape == (3, 4, 17)
    torch.testing.assert_close(codes.to_dense(), dense.to_dense())
    first, second = (part.to_dense().square().sum() for part in (codes, dense))
    for mine, theirs in zip(
        torch.autograd.grad(first, inputs), torch.autograd.grad(second, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    bare = encode_threshold(x[:0], W, None, theta)
    assert bare.shape == (0, 4, 17)
