"""Solvers of l0 and of sparse Bayes: what they find, and which atoms they choose."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import SparseCoder as SklearnCoder
from sklearn.linear_model import orthogonal_mp
from torch import Tensor

from sparsecode.datafits import MaskedQuadratic
from sparsecode.datasets import make_sparse_data
from sparsecode.penalties import (
    TopKBall,
)
from sparsecode.solvers import (
    IHT,
    OMP,
    AbstractSolver,
    MatchingPursuit,
    NullSpaceTuning,
    SparseBayes,
    cholesky_omp,
)
from sparsecode.testing import max_new_bytes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(dictionary: Tensor) -> Tensor:
    return dictionary / dictionary.norm(dim=1, keepdim=True)


@pytest.fixture(name="dictionary")
def dictionary_() -> Tensor:
    return unit(torch.randn(37, 20, dtype=torch.float64, generator=generator()))


@pytest.fixture(name="x")
def x_(dictionary: Tensor) -> Tensor:
    z = torch.randn(23, 37, dtype=torch.float64, generator=generator(1))
    z *= torch.rand(23, 37, generator=generator(2)) < 0.1
    return z @ dictionary + 0.05 * torch.randn(23, 20, dtype=z.dtype, generator=generator(3))


def sparse_rows(n_rows=60):
    return [part.double() for part in make_sparse_data(n_rows, 16, 40, k=3, noise=0.01)[:2]]


@pytest.mark.parametrize("k", [1, 4, 9])
def test_omp_is_that_of_scikit_learn(k: int, x: Tensor, dictionary: Tensor) -> None:
    ours = OMP(k).solve(x, dictionary).codes.to_dense()
    theirs = orthogonal_mp(dictionary.T.numpy(), x.T.numpy(), n_nonzero_coefs=k)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-10)


def test_omp_takes_more_entries_than_there_are_atoms(x: Tensor, dictionary: Tensor) -> None:
    few = dictionary[:5]
    result = OMP(30).solve(x, few)
    exact = torch.linalg.lstsq(few.T, x.T).solution.T
    torch.testing.assert_close(result.codes.to_dense(), exact)
    settings: Any = {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 30}
    coder = SklearnCoder(few.numpy(), **settings)
    with pytest.raises(ValueError, match="number of atoms cannot be more"):
        coder.fit_transform(x.numpy())


def test_masked_omp_is_omp_on_the_observed_columns(x: Tensor, dictionary: Tensor) -> None:
    mask = torch.rand(20, generator=generator(5)) < 0.7
    hidden = x.masked_fill(~mask, torch.nan)
    ours = OMP(4).solve(hidden, dictionary, datafit=MaskedQuadratic(mask)).codes.to_dense()
    cut = OMP(4).solve(x[:, mask], dictionary[:, mask]).codes.to_dense()
    torch.testing.assert_close(ours, cut)
    rows = torch.rand(23, 20, generator=generator(6)) < 0.7
    ours = OMP(4).solve(x, dictionary, datafit=MaskedQuadratic(rows)).codes.to_dense()
    for row, kept, got in zip(x, rows, ours, strict=True):
        alone = OMP(4).solve(row[None, kept], dictionary[:, kept]).codes.to_dense()[0]
        torch.testing.assert_close(got, alone)


def test_omp_stops_at_its_tolerance(x: Tensor, dictionary: Tensor) -> None:
    result = OMP(20, tol=0.3).solve(x, dictionary)
    assert (result.stop_value <= 0.3).all()
    for row, n in zip(x, result.codes.n_active.tolist(), strict=True):
        if n:
            before = OMP(n - 1).solve(row[None], dictionary) if n > 1 else None
            error = row.square().sum() if before is None else before.stop_value[0]
            assert error > 0.3


def test_on_an_orthonormal_dictionary_all_keep_the_largest_correlations(x: Tensor) -> None:
    basis = torch.linalg.qr(torch.randn(20, 20, dtype=x.dtype, generator=generator(4))).Q
    expected = TopKBall(3).prox(x @ basis.T, 1.0)
    for solver in (OMP(3), MatchingPursuit(3), IHT(3), NullSpaceTuning(3)):
        torch.testing.assert_close(solver.solve(x, basis).codes.to_dense(), expected)


def planted(spread: float, k: int = 20, trials: int = 15) -> tuple[list[Tensor], list[Tensor]]:
    """Return noiseless rows and dictionaries (100 x 256), singular values spread as asked."""
    dictionaries, codes = [], []
    for seed in range(trials):
        gaussian = torch.randn(256, 100, dtype=torch.float64, generator=generator(seed))
        if spread > 1:
            u, s, v = torch.linalg.svd(gaussian, full_matrices=False)
            levels = torch.logspace(0, -np.log10(spread), len(s), dtype=torch.float64)
            gaussian = u @ torch.diag(levels) @ v
        z = torch.zeros(256, dtype=torch.float64)
        support = torch.randperm(256, generator=generator(seed))[:k]
        z[support] = torch.randn(k, dtype=torch.float64, generator=generator(seed + 100))
        dictionaries.append(unit(gaussian) if spread == 1 else gaussian)
        codes.append(z[None])
    return dictionaries, codes


def recovered(solver: AbstractSolver, spread: float, k: int = 20) -> int:
    found = 0
    for dictionary, z in zip(*planted(spread, k), strict=True):
        got = solver.solve(z @ dictionary, dictionary, warn=False).codes.to_dense()
        found += bool((got - z).norm() < 1e-2 * z.norm())
    return found


def test_null_space_tuning_recovers_what_omp_cannot() -> None:
    easy, hard = recovered(OMP(20), 1), recovered(OMP(20), 100)
    assert recovered(NullSpaceTuning(50), 1) >= max(easy, 14)
    assert hard <= 3
    assert recovered(NullSpaceTuning(50), 100) >= 13


@pytest.mark.parametrize(("spread", "k"), [(1, 40), (100, 20), (100, 40)])
def test_message_passing_recovers_what_exact_inference_does(spread: float, k: int) -> None:
    # One trial in fifteen may differ. Measured: 13 of 14, 15 of 15 and 13 of 13.
    exact = recovered(SparseBayes(method="exact", noise=1e-4, max_iter=300), spread, k)
    passed = recovered(SparseBayes(noise=1e-4, max_iter=300), spread, k)
    assert exact >= 13
    assert passed >= exact - 1


@pytest.mark.parametrize("spread", [1, 100])
@pytest.mark.parametrize("k", [20, 30, 40])
def test_adaptive_null_space_tuning_recovers_no_less_than_omp(spread: float, k: int) -> None:
    assert recovered(NullSpaceTuning(50), spread, k) >= recovered(OMP(k), spread, k)


def test_the_noise_is_learned() -> None:
    # A row determines its noise only if it has many more entries than it needs atoms.
    atoms = unit(torch.randn(30, 200, dtype=torch.float64, generator=generator()))
    z = torch.zeros(10, 30, dtype=torch.float64)
    z[:, 3], z[:, 8] = 1.0, -2.0
    x = z @ atoms + 0.02 * torch.randn(10, 200, dtype=torch.float64, generator=generator(3))
    for method in ("exact", "gamp"):
        codes = SparseBayes(method=method).solve(x, atoms, warn=False).codes
        assert (codes.to_dense() - z).norm() < 0.1 * z.norm()
        assert ((codes.to_dense().abs() > 0.25) == (z != 0)).all()


def test_sparse_bayes_does_not_depend_on_the_norm_of_atoms():
    x, dictionary = sparse_rows(20)
    small, large = (
        SparseBayes(max_iter=50).solve(x, dictionary * scale, warn=False).codes.to_dense() * scale
        for scale in (1e-3, 1.0)
    )
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-3)


def test_an_atom_that_is_picked_again_is_one_entry():
    x, dictionary = sparse_rows(5)
    codes = MatchingPursuit(50).solve(x, dictionary).codes
    assert torch.equal(codes.n_active, (codes.to_dense() != 0).sum(1))
    assert int(codes.n_active.max()) <= 40


def test_omp_stops_where_only_rounding_is_left():
    generator = torch.Generator().manual_seed(0)
    dictionary = torch.nn.functional.normalize(
        torch.randn(40, 16, generator=generator, dtype=torch.float64), dim=1
    )
    x = 2 * dictionary[[3, 7]] + dictionary[[5, 9]]
    assert int(OMP(5).solve(x, dictionary).codes.n_active.max()) == 2


def test_iterative_hard_thresholding_leaves_a_support_that_is_fitted_exactly():
    x, start = torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 0.0]])
    codes = IHT(1).solve(x, torch.eye(2), start=start).codes
    torch.testing.assert_close(codes.to_dense(), torch.tensor([[0.0, 5.0]]))


def test_memory_of_bases_does_not_grow_with_the_rows():
    generator = torch.Generator().manual_seed(0)
    dictionary = unit(torch.randn(60, 500, generator=generator))
    mask = torch.rand(500, generator=generator) < 0.8
    for solver, settings in (
        (OMP(10), {"datafit": MaskedQuadratic(mask)}),
        (NullSpaceTuning(10), {}),
    ):
        few, many = (
            max_new_bytes(partial(solver.solve, torch.randn(n, 500), dictionary, **settings))
            for n in (200, 1000)
        )
        assert many < few + 800 * 500 * 4 * 5  # copies of the rows, not ten atoms for each


def in_double_alone(x, dictionary, k):
    atoms = cholesky_omp._Atoms.of(dictionary, len(x))
    return cholesky_omp._Pursuit(x, atoms, k).run(x.new_zeros(len(x))).picks()


@pytest.mark.parametrize("condition", [1, 100])
@pytest.mark.parametrize("scale", [1.0, 1e150, 1e-150])
def test_omp_that_chooses_in_float32_chooses_as_float64_does(condition, scale):
    atoms = torch.randn(256, 100, dtype=torch.float64, generator=generator())
    if condition > 1:
        u, _, v = torch.linalg.svd(atoms, full_matrices=False)
        atoms = u * torch.logspace(0, -np.log10(condition), 100, dtype=torch.float64) @ v
    dictionary = unit(atoms)
    z = torch.randn(600, 256, dtype=torch.float64, generator=generator(1))
    z *= torch.rand(600, 256, generator=generator(2)) < 0.08
    x = z @ dictionary + 0.05 * torch.randn(600, 100, dtype=z.dtype, generator=generator(3))
    alone = in_double_alone(x, dictionary, 15)
    ours = cholesky_omp.cholesky_omp(x * scale, dictionary / scale, 15, 0.0)
    sound = alone.sound & ours.sound
    assert sound.double().mean() > 0.95
    assert torch.equal(ours.chosen[sound], alone.chosen[sound])
    wanted = alone.values[sound] * scale * scale
    torch.testing.assert_close(ours.values[sound], wanted, rtol=1e-9, atol=1e-12 * scale * scale)


def test_choices_that_are_close_are_left_to_float64():
    dictionary = unit(torch.randn(40, 20, dtype=torch.float64, generator=generator()))
    near = unit(dictionary + 1e-9 * torch.randn(40, 20, dtype=torch.float64))
    x = near[:30] + 0.3 * torch.randn(30, 20, dtype=torch.float64, generator=generator(1))
    both = torch.cat([dictionary, near, dictionary])  # and ties, which go to the lower index
    many = x.repeat(20, 1)
    ours = OMP(1).solve(many, both).codes.to_dense()
    wanted = (x @ both.T).abs().argmax(1)
    assert torch.equal(ours.abs().argmax(1), wanted.repeat(20))
    assert bool((wanted < 80).all())


def test_rows_that_are_explained_almost_exactly_are_left_to_float64():
    dictionary = unit(torch.randn(40, 20, dtype=torch.float64, generator=generator()))
    x = 2 * dictionary[3:33] + dictionary[5:35] + 1e-6 * dictionary[:30]
    many = x.repeat(30, 1)
    ours = OMP(3).solve(many, dictionary)
    theirs: Any = orthogonal_mp(dictionary.T.numpy(), many.T.numpy(), n_nonzero_coefs=3)
    np.testing.assert_allclose(ours.codes.to_dense(), theirs.T, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_and_blocks_of_rows_do_not_show(dtype, monkeypatch):
    dictionary = unit(torch.randn(70, 40, dtype=dtype, generator=generator()))
    x = torch.randn(333, 40, dtype=dtype, generator=generator(1))
    whole = OMP(6).solve(x, dictionary).codes
    monkeypatch.setattr(cholesky_omp, "PART_ENTRIES", 96 * 70)
    monkeypatch.setattr(cholesky_omp, "BLOCK_ENTRIES", 13 * 70)
    parts = OMP(6).solve(x, dictionary).codes
    assert torch.equal(parts.indices, whole.indices)
    torch.testing.assert_close(parts.values, whole.values)


def test_powers_of_two_change_no_choice_and_no_digit():
    dictionary = unit(torch.randn(70, 40, dtype=torch.float64, generator=generator()))
    x = torch.randn(200, 40, dtype=torch.float64, generator=generator(1))
    plain = OMP(6).solve(x, dictionary).codes
    scaled = OMP(6).solve(x * 2.0**40, dictionary * 2.0**-9).codes
    assert torch.equal(plain.indices, scaled.indices)
    assert torch.equal(plain.values, scaled.values * 2.0**-49)
