"""Thresholds keep what is strictly larger."""

import pytest
import torch

from sparsecode import threshold


@pytest.mark.parametrize(
    "theta", [0.3, torch.tensor(0.3), torch.linspace(-1, 1, 11)], ids=["float", "scalar", "each"]
)
def test_threshold_is_the_masked_matrix(theta):
    x = torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    codes = threshold(x, theta)
    expected = x * (x.detach() > theta)
    assert codes.shape == x.shape
    assert torch.equal(codes.to_dense(), expected)
    codes.values.sum().backward()
    assert torch.equal(x.grad, (x.detach() > theta).float())


def test_equality_is_off_and_nan_is_off():
    codes = threshold(torch.tensor([[0.5, float("nan"), 0.50001]]), 0.5)
    assert codes.indices.tolist() == [2]


@pytest.mark.parametrize(
    ("x", "theta", "error", "sentence"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(2),
            ValueError,
            r"`theta` must have shape \(\) or \(n_latents,\) = \(3,\)",
        ),
        (torch.zeros(2, 3).long(), 0.0, TypeError, "`x` must be a floating tensor"),
        (torch.tensor(1.0), 0.0, ValueError, r"`x` must have shape \(..., n_latents\)"),
    ],
)
def test_bad_input_gets_one_sentence(x, theta, error, sentence):
    with pytest.raises(error, match=sentence):
        threshold(x, theta)
