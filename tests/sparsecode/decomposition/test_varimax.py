import torch

from sparsecode.decomposition.varimax import varimax


def criterion(loadings: torch.Tensor) -> float:
    return float(loadings.square().var(dim=1, correction=0).sum())


def rotated(loadings: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    k = loadings.shape[0]
    q = torch.linalg.qr(torch.randn(k, k, generator=generator, dtype=loadings.dtype)).Q
    return q @ loadings


def test_mixed_groups_of_features_are_told_apart() -> None:
    groups = torch.block_diag(*[torch.ones(1, 4, dtype=torch.float64)] * 5)
    groups *= torch.tensor([5.0, 4, 3, 2, 1])[:, None]
    found = varimax(rotated(groups), max_iter=500, tol=1e-12)
    order = found.norm(dim=1).argsort(descending=True)
    torch.testing.assert_close(found[order].abs(), groups, atol=1e-4, rtol=0)


def test_it_is_a_rotation() -> None:
    loadings = torch.randn(4, 9, dtype=torch.float64)
    found = varimax(loadings)
    torch.testing.assert_close(found.T @ found, loadings.T @ loadings)


def test_the_criterion_never_falls() -> None:
    for seed in range(20):
        loadings = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed))
        values = [criterion(varimax(loadings, max_iter=n, tol=0.0)) for n in (0, 1, 2, 5, 20)]
        assert values == sorted(values)


def test_an_overshooting_rotation_is_stepped_back() -> None:
    # Unshifted steps jump between two mirror images of this start without ever improving.
    mixed = torch.tensor([[0.8, 0.8, 0.6, 0.6], [0.6, 0.6, -0.8, -0.8]])
    assert criterion(varimax(mixed)) > 0.49 > 10 * criterion(mixed)


def test_one_row_stays_as_it_is() -> None:
    row = torch.tensor([[1.0, -2.0, 0.5]])
    torch.testing.assert_close(varimax(row).abs(), row.abs())
