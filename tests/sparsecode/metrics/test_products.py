"""ProductSums against the explicit matrices."""

import math

import pytest
import torch

from sparsecode.metrics import ProductSums, fvu, product_variance


def problem(n=50, d=6):
    generator = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(n, d, generator=generator).double(), dim=1)
    X = torch.einsum("nd,ne->nde", u, u)
    return u, X, X + 0.1 * torch.randn(n, d, d, generator=generator).double()


def test_equal_to_the_metrics_of_the_flattened_matrices():
    u, X, Y = problem()
    sums = ProductSums(6)
    for part in (slice(0, 7), slice(7, 50)):
        inner = torch.einsum("nde,nde->n", X[part], Y[part])
        sums.add(u[part], inner, Y[part].square().sum((1, 2)))
    assert sums.fvu == pytest.approx(fvu(X.flatten(1), Y.flatten(1)))
    assert sums.mse == pytest.approx(float((X - Y).square().sum((1, 2)).mean()))
    assert sums.variance == pytest.approx(product_variance(u))
    cosine = torch.nn.functional.cosine_similarity(X.flatten(1), Y.flatten(1)).mean()
    assert sums.cosine == pytest.approx(float(cosine))
    assert sums.n_rows == 50


def test_no_rows_and_equal_rows():
    sums = ProductSums(2)
    assert all(math.isnan(value) for value in (sums.fvu, sums.mse, sums.cosine, sums.variance))
    sums.add(torch.ones(4, 2), torch.zeros(4), torch.zeros(4))
    assert sums.variance == 0
    assert sums.fvu == math.inf
    assert sums.cosine == 0
