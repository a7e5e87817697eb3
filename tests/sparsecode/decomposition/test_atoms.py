import torch

from sparsecode.decomposition.atoms import AtomSums


def unit_rows(n: int, d: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def error(sums: AtomSums, codes: torch.Tensor, rows: torch.Tensor) -> float:
    return float((rows - codes @ sums.atoms_FD).square().sum())


def test_each_update_lowers_the_error_and_ends_at_the_best_atoms_on_the_sphere() -> None:
    truth, codes = unit_rows(5, 8, 0), torch.randn(100, 5, dtype=torch.float64)
    rows = codes @ truth
    sums = AtomSums(unit_rows(5, 8, 1), nonnegative=False)
    sums.add(codes, rows, None)
    last = error(sums, codes, rows)
    for _ in range(60):
        sums.update_atoms()
        now = error(sums, codes, rows)
        assert now <= last + 1e-12
        last = now
    torch.testing.assert_close(sums.atoms_FD, truth)


def test_old_batches_fade() -> None:
    sums = AtomSums(torch.eye(2), nonnegative=False)
    sums.add(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), 4)
    sums.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 3.0]]), 4)
    torch.testing.assert_close(sums.codes_FF, torch.diag(torch.tensor([0.75, 1.0])))
    torch.testing.assert_close(sums.rows_FD, torch.diag(torch.tensor([1.5, 3.0])))
    sums.add(torch.ones(4, 2), torch.zeros(4, 2), 4)  # a batch as long as the memory: all is new
    torch.testing.assert_close(sums.codes_FF, torch.full((2, 2), 4.0))


def test_unused_atoms_stay_and_replaced_ones_forget() -> None:
    sums = AtomSums(torch.eye(2), nonnegative=False)
    sums.add(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]]), None)
    sums.update_atoms()
    torch.testing.assert_close(sums.atoms_FD, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    sums.replace(torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(sums.atoms_FD, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert not sums.codes_FF.any()
    assert not sums.rows_FD.any()


def test_atoms_without_negative_entries() -> None:
    sums = AtomSums(torch.eye(2), nonnegative=True)
    sums.add(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, -4.0]]), None)
    sums.update_atoms()
    torch.testing.assert_close(sums.atoms_FD[0], torch.tensor([1.0, 0.0]))
