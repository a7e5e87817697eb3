import numpy as np
import pytest
import torch

from sparsecode.decomposition.adjusted_variance import adjusted_variance, with_stable_signs


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def test_variances_are_the_squared_diagonal_of_a_qr_decomposition() -> None:
    X = torch.randn(40, 9, dtype=torch.float64)
    components = unit(torch.randn(5, 9, dtype=torch.float64))
    order, variances = adjusted_variance(X, components)
    triangle = np.linalg.qr((X @ components[order].T).numpy())[1]
    np.testing.assert_allclose(variances, np.diag(triangle) ** 2)


def test_they_never_increase_and_the_first_is_the_longest() -> None:
    X = torch.randn(40, 9, dtype=torch.float64)
    components = unit(torch.randn(7, 9, dtype=torch.float64))
    order, variances = adjusted_variance(X, components)
    assert (variances.diff() <= 1e-12).all()
    assert int(order[0]) == int((X @ components.T).norm(dim=0).argmax())
    assert sorted(order.tolist()) == list(range(7))


def test_orthogonal_scores_are_not_adjusted() -> None:
    X = torch.randn(30, 6, dtype=torch.float64)
    X = X - X.mean(0)
    _, values, components = torch.linalg.svd(X, full_matrices=False)
    order, variances = adjusted_variance(X, components.flip(0))
    assert order.tolist() == [5, 4, 3, 2, 1, 0]
    torch.testing.assert_close(variances, values.square())


def test_a_repeated_component_adds_nothing() -> None:
    X = torch.randn(30, 4, dtype=torch.float64)
    row = unit(torch.randn(1, 4, dtype=torch.float64))
    _, variances = adjusted_variance(X, row.expand(3, -1))
    assert float(variances[0]) == pytest.approx(float((X @ row.T).square().sum()))
    assert variances[1:].abs().max() < 1e-10 * variances[0]


def test_signs_make_the_first_largest_entry_positive() -> None:
    components = torch.tensor([[0.0, -3.0, 1.0], [2.0, -2.0, 0.0], [-1.0, 1.0, -0.0]])
    signed = with_stable_signs(components)
    assert signed.tolist() == [[0, 3, -1], [2, -2, 0], [1, -1, 0]]
    assert not torch.signbit(signed[signed == 0]).any()
