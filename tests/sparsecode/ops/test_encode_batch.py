"""Encoding with one selection over the batch: that of the dense pre-activations."""

import pytest
import torch

from sparsecode import batch_topk, encode_batch_topk


@pytest.mark.parametrize("k", [0.05, 0.3, 1, 2.5, 9, 17])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_encode_batch_topk_is_the_selection_of_the_dense_pre_activations(k, ties):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(13, 5, generator=generator) * torch.logspace(-3, 2, 13)[:, None]
    W, b = torch.randn(17, 5, generator=generator).t(), torch.randn(17, generator=generator)
    if ties:
        x, W, b = x.round(), W.round(), b.round()
    shift = torch.ones(5)
    codes = encode_batch_topk(x, W, b, k, pre_bias=shift)
    dense = batch_topk(((x - shift) @ W + b).relu(), k)
    if ties:
        assert codes == dense
    torch.testing.assert_close(codes.to_dense(), dense.to_dense())
    assert codes.is_ragged
    assert bool((codes.values > 0).all())


def test_encode_batch_topk_has_the_gradients_of_the_dense_selection():
    generator = torch.Generator().manual_seed(1)
    shapes = [(7, 5), (5, 19), (19,), (5,)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    inputs[0][0] *= 100.0  # this row needs more candidates than the first look gives
    inputs = [part.requires_grad_() for part in inputs]
    x, W, b, shift = inputs
    weights = torch.randn(7, 19, generator=generator, dtype=torch.float64)
    first = (encode_batch_topk(x, W, b, 1, pre_bias=shift).to_dense() * weights).sum()
    second = (batch_topk(((x - shift) @ W + b).relu(), 1).to_dense() * weights).sum()
    for mine, theirs in zip(
        torch.autograd.grad(first, inputs), torch.autograd.grad(second, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
