"""Encoding with thresholds: that of the dense pre-activations."""

import pytest
import torch

from sparsecode import encode_threshold, threshold
from sparsecode.ops.encode_threshold import cpu


@pytest.mark.parametrize("entries", [1 << 22, 40], ids=["at_once", "in_parts"])
@pytest.mark.parametrize("theta", [0.5, torch.linspace(-1, 2, 17)], ids=["one", "each"])
def test_encode_threshold_is_the_threshold_of_the_dense_pre_activations(
    theta, entries, monkeypatch
):
    monkeypatch.setattr(cpu, "CHUNK_ENTRIES", entries)
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 5), (5, 17), (17,), (5,)]
    draws = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    inputs = [draw.requires_grad_() for draw in draws]
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


def test_a_named_implementation_never_falls_back():
    x, W = torch.ones(2, 3).half(), torch.ones(3, 4).half()
    with pytest.raises(NotImplementedError, match="unsupported here: `x` of dtype float16"):
        encode_threshold(x, W, None, 0.0, impl="cpu")
    assert encode_threshold(x, W, None, 0.0).dtype == torch.float16
    same = encode_threshold(x.float(), W.float(), None, 0.0, impl="reference")
    assert same == encode_threshold(x.float(), W.float(), None, 0.0, impl="cpu")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"theta": torch.zeros(3)}, r"`theta` must have shape \(n_latents,\) = \(4,\); got \(3,\)"),
        ({"b_enc": torch.zeros(3)}, "`b_enc` must have shape"),
        ({"x": torch.zeros(2, 5)}, "`x` must have shape"),
    ],
)
def test_bad_shapes_get_one_sentence(change, sentence):
    call = {"x": torch.zeros(2, 3), "W_enc": torch.zeros(3, 4), "b_enc": None, "theta": 0.0}
    with pytest.raises(ValueError, match=sentence):
        encode_threshold(**call | change)
