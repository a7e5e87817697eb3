import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Lasso
from torch import Tensor

from sparsecode import SparseCodes, solvers
from sparsecode.datafits import Huber, MaskedQuadratic, Quadratic, WeightedQuadratic
from sparsecode.datasets import make_sparse_data
from sparsecode.penalties import (
    CEL0,
    L0,
    L1,
    MCP,
    SCAD,
    AbstractPenalty,
    ElasticNet,
    LHalf,
    LogSum,
    LTwoThirds,
    NonNegative,
    SortedL1,
    TopKBall,
    WeightedL1,
)
from sparsecode.solvers import (
    FISTA,
    IHT,
    ISTA,
    LARS,
    OMP,
    AbstractSolver,
    CoordinateDescent,
    MatchingPursuit,
    NotConvergedWarning,
    NullSpaceTuning,
    Problem,
    SparseBayes,
    base,
)
from sparsecode.testing import check_solver

GREEDY = [OMP(4), MatchingPursuit(9), IHT(4), NullSpaceTuning(4)]
BAYES = [SparseBayes(noise=0.05, tol=1e-2), SparseBayes(noise=0.05, method="exact")]
WITH_PENALTY = [FISTA(), ISTA(), CoordinateDescent()]


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


def name(solver: Any) -> str:
    return type(solver).__name__


each_solver = pytest.mark.parametrize("solver", GREEDY + BAYES + WITH_PENALTY, ids=name)


def solved(solver: AbstractSolver, x: Tensor, dictionary: Tensor, **settings: Any) -> Any:
    if solver in WITH_PENALTY:
        settings.setdefault("penalty", L1(0.1))
    return solver.solve(x, dictionary, **settings)


# what every solver keeps


@each_solver
def test_results_say_what_was_reached(solver: Any, x: Tensor, dictionary: Tensor) -> None:
    result = solved(solver, x, dictionary)
    penalty = L1(0.1) if solver in WITH_PENALTY else None
    problem = Problem(x, dictionary, penalty, Quadratic())
    torch.testing.assert_close(result.objective, problem.objective(result.codes.to_dense()))
    assert result.codes.shape == (23, 37)
    assert result.converged.all()
    assert result.n_iter >= 1
    assert result.objective.max() < (x.square().sum(1) / 2).max()


@each_solver
def test_rows_are_independent_and_parts_change_nothing(
    solver: Any, x: Tensor, dictionary: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = solved(solver, x, dictionary).objective
    alone = torch.cat([solved(solver, row[None], dictionary).objective for row in x])
    torch.testing.assert_close(alone, whole, atol=1e-7, rtol=1e-6)
    monkeypatch.setattr(base, "CHUNK_ENTRIES", 5 * 37)
    parts = solved(solver, x, dictionary)
    torch.testing.assert_close(parts.objective, whole, atol=1e-7, rtol=1e-6)
    assert parts.objective.shape == parts.converged.shape == (23,)


@each_solver
def test_float32_finds_what_float64_finds(solver: Any, x: Tensor, dictionary: Tensor) -> None:
    single = solved(solver, x.float(), dictionary.float())
    assert single.codes.dtype == torch.float32
    double = solved(solver, x, dictionary)
    close = torch.isclose(single.objective.double(), double.objective, atol=1e-4, rtol=1e-4)
    assert close.sum() >= (20 if solver is GREEDY[2] else 23)  # IHT may take another support


@each_solver
def test_rows_of_zeros_and_no_rows(solver: Any, x: Tensor, dictionary: Tensor) -> None:
    assert (solved(solver, 0 * x, dictionary).codes.n_active == 0).all()
    assert solved(solver, x[:0], dictionary).codes.shape == (0, 37)


@each_solver
def test_atoms_of_zeros_and_doubled_atoms(solver: Any, x: Tensor, dictionary: Tensor) -> None:
    spoiled = torch.cat([dictionary, dictionary[:3], 0 * dictionary[:2]])
    result = solved(solver, x, spoiled)
    assert result.objective.isfinite().all()
    assert (result.codes.to_dense()[:, -2:] == 0).all()


@each_solver
def test_what_is_refused_before_work(solver: Any, x: Tensor, dictionary: Tensor) -> None:
    with pytest.raises(ValueError, match=r"`x` must have shape .* = \(any, 20\); got \(23, 19\)"):
        solved(solver, x[:, 1:], dictionary)
    with pytest.raises(ValueError, match=r"`x` must be finite; got NaN or infinity; first in row"):
        solved(solver, x / 0, dictionary)
    with pytest.raises(TypeError, match="`x` must be float32 or float64"):
        solved(solver, x.half(), dictionary.half())


@pytest.mark.parametrize(
    ("solver", "settings", "message"),
    [
        (FISTA(), {"penalty": L0(0.1)}, "`Convex`; `L0` is not. Use `ISTA`"),
        (FISTA(), {}, "`FISTA` needs a penalty; got None. Use `OMP`"),
        (FISTA(), {"datafit": Huber()}, "got None. Use `FISTA` with a penalty, such as `L1`"),
        (FISTA(), {"penalty": 0.1}, "`penalty` must be an `AbstractPenalty` or None; got 0.1"),
        (FISTA(), {"datafit": 0.1}, "`datafit` must be an `AbstractDatafit`; got 0.1"),
        (
            CoordinateDescent(),
            {"penalty": SortedL1([1.0] * 37)},
            "needs a penalty that is `CoordinateSeparable`; `SortedL1` is not. Use `FISTA`",
        ),
        (CoordinateDescent(), {"penalty": L1(1.0), "datafit": Huber()}, "`Huber` is not. Use"),
        (OMP(2), {"penalty": L1(1.0)}, "`OMP` takes no penalty; got `L1`. Use `FISTA`"),
        (OMP(2), {"datafit": Huber()}, "`MaskedQuadratic`; `Huber` is not. Use `FISTA` with a"),
        (OMP(2), {"penalty": L0(1.0)}, "takes no penalty; got `L0`. Use `ISTA`"),
        (NullSpaceTuning(2), {"penalty": L1(1.0)}, "takes no penalty; got `L1`. Use `FISTA`"),
        (CoordinateDescent(), {"penalty": TopKBall(2)}, "`TopKBall` is not. Use `ISTA`"),
        (
            MatchingPursuit(2),
            {"datafit": MaskedQuadratic(torch.ones(20, dtype=torch.bool))},
            "`MaskedQuadratic` is not. Use `OMP`",
        ),
    ],
)
def test_a_solver_says_who_would_serve(
    solver: Any, settings: Any, message: str, x: Tensor, dictionary: Tensor
) -> None:
    with pytest.raises(TypeError, match=message):
        solver.solve(x, dictionary, **settings)


@pytest.mark.parametrize("solver", [FISTA(max_iter=2), ISTA(max_iter=2), IHT(4, max_iter=1)])
def test_one_warning_says_that_rows_did_not_converge(
    solver: Any, x: Tensor, dictionary: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CHUNK_ENTRIES", 5 * 37)
    settings = {} if name(solver) == "IHT" else {"penalty": L1(0.01)}
    with pytest.warns(NotConvergedWarning, match="did not converge on .* of 23 rows") as caught:
        result = solver.solve(x, dictionary, **settings)
    assert len(caught) == 1
    assert not result.converged.all()


@pytest.mark.parametrize(
    "solver",
    [
        FISTA(max_iter=20_000),
        ISTA(max_iter=200_000),
        CoordinateDescent(),
        LARS(),
        OMP(4),
        OMP(16, tol=0.1),
        MatchingPursuit(9),
        IHT(4, max_iter=100_000),
        NullSpaceTuning(4),
        NullSpaceTuning(4, adaptive=False),
        SparseBayes(noise=0.05, tol=1e-2),
        SparseBayes(noise=0.05, method="exact"),
    ],
    ids=name,
)
def test_the_contract_holds(solver: AbstractSolver) -> None:
    check_solver(solver)


@pytest.mark.parametrize(
    ("solver", "penalty"),
    [
        (ISTA(max_iter=200_000), L0(0.02)),
        (ISTA(max_iter=200_000), CEL0(0.02)),
        (ISTA(max_iter=200_000), TopKBall(4)),
        (CoordinateDescent(), MCP(0.1)),
        (CoordinateDescent(), ElasticNet(0.1, 0.1)),
        (FISTA(max_iter=20_000), WeightedL1(torch.linspace(0.01, 0.2, 24), nonnegative=True)),
        (FISTA(max_iter=20_000), SortedL1(np.linspace(0.2, 0.01, 24).tolist())),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_contract_holds_with_a_penalty(
    solver: AbstractSolver, penalty: AbstractPenalty
) -> None:
    check_solver(solver, penalty)


def test_every_solver_is_checked() -> None:
    exported = {kind for kind in vars(solvers).values() if isinstance(kind, type)}
    exported = {kind for kind in exported if issubclass(kind, AbstractSolver)} - {AbstractSolver}
    marks: Any = test_the_contract_holds.pytestmark  # type: ignore[attr-defined]
    assert exported == {type(solver) for solver in marks[0].args[1]}


# the lasso and its kin


def objective(x: Tensor, dictionary: Tensor, z: Any, alpha: float) -> float:
    z = torch.as_tensor(z)
    return float((x - z @ dictionary).square().sum() / 2 + alpha * z.abs().sum())


@pytest.mark.parametrize("solver", WITH_PENALTY, ids=name)
@pytest.mark.parametrize("alpha", [0.02, 0.3])
def test_the_objective_of_scikit_learn_is_reached(
    solver: Any, alpha: float, x: Tensor, dictionary: Tensor
) -> None:
    ours = solver.solve(x, dictionary, penalty=L1(alpha)).codes.to_dense()
    lasso = Lasso(alpha=alpha / 20, fit_intercept=False, tol=1e-12, max_iter=100_000)
    theirs = np.stack([lasso.fit(dictionary.T.numpy(), row.numpy()).coef_ for row in x])
    best = objective(x, dictionary, theirs, alpha)
    assert objective(x, dictionary, ours, alpha) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize(
    "penalty",
    [
        ElasticNet(0.1, 0.5),
        WeightedL1(torch.linspace(0, 0.3, 37), nonnegative=True),
        SortedL1(np.linspace(0.3, 0.05, 37).tolist()),
    ],
    ids=name,
)
def test_solvers_agree_on_convex_penalties(
    penalty: AbstractPenalty, x: Tensor, dictionary: Tensor
) -> None:
    fast = FISTA(max_iter=20_000, tol=1e-7).solve(x, dictionary, penalty=penalty)
    slow = ISTA(max_iter=50_000, tol=1e-7).solve(x, dictionary, penalty=penalty)
    torch.testing.assert_close(slow.objective, fast.objective, rtol=1e-5, atol=1e-7)


def test_non_negative_least_squares_is_that_of_scipy(x: Tensor, dictionary: Tensor) -> None:
    result = FISTA(max_iter=20_000).solve(x, dictionary, penalty=NonNegative())
    norms = np.array([nnls(dictionary.T.numpy(), row.numpy())[1] for row in x])
    np.testing.assert_allclose(result.objective, norms**2 / 2, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "datafit", [MaskedQuadratic, WeightedQuadratic, Huber], ids=lambda f: f.__name__
)
def test_datafits_are_minimized(datafit: Any, x: Tensor, dictionary: Tensor) -> None:
    shaped = torch.rand(23, 20, generator=generator(7))
    fit = {
        MaskedQuadratic: MaskedQuadratic(shaped < 0.7),
        WeightedQuadratic: WeightedQuadratic(shaped),
        Huber: Huber(0.1),
    }[datafit]
    result = FISTA(max_iter=20_000).solve(x, dictionary, penalty=L1(0.05), datafit=fit)
    z = result.codes.to_dense()
    gradient = Problem(x, dictionary, None, fit).gradient(z)
    assert L1(0.05).subdiff_distance(z, gradient).max() < 1e-4


@pytest.mark.parametrize(
    "penalty",
    [L1(0.1), L0(0.02), CEL0(0.02), LHalf(0.05), SCAD(0.1), MCP(0.1), LogSum(0.05), TopKBall(3)],
    ids=name,
)
def test_ista_never_raises_the_objective(
    penalty: AbstractPenalty, x: Tensor, dictionary: Tensor
) -> None:
    z, last = torch.zeros(23, 37, dtype=x.dtype), torch.full((23,), torch.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        for _ in range(60):
            result = ISTA(max_iter=1).solve(x, dictionary, penalty=penalty, start=z)
            assert (result.objective <= last + 1e-12).all()
            z, last = result.codes.to_dense(), result.objective


@pytest.mark.parametrize("penalty", [SCAD(0.1), MCP(0.1), CEL0(0.01), LogSum(0.03)], ids=name)
def test_coordinate_descent_ends_at_a_stationary_point(
    penalty: Any, x: Tensor, dictionary: Tensor
) -> None:
    z = CoordinateDescent(tol=1e-5).solve(x, dictionary, penalty=penalty).codes.to_dense()
    gradient = Problem(x, dictionary, penalty, Quadratic()).gradient(z)
    assert penalty.subdiff_distance(z, gradient).max() < 1e-4


@pytest.mark.parametrize("solver", WITH_PENALTY, ids=name)
def test_a_start_at_the_solution_ends_at_once(solver: Any, x: Tensor, dictionary: Tensor) -> None:
    precise = type(solver)(max_iter=50_000, tol=1e-9).solve(x, dictionary, penalty=L1(0.1))
    again = solver.solve(x, dictionary, penalty=L1(0.1), start=precise.codes)
    assert again.n_iter <= 1


def test_codes_may_start_an_iteration(x: Tensor, dictionary: Tensor) -> None:
    start = OMP(4).solve(x, dictionary).codes
    assert isinstance(start, SparseCodes)
    result = ISTA().solve(x, dictionary, penalty=TopKBall(4), start=start)
    assert (result.objective <= OMP(4).solve(x, dictionary).objective + 1e-12).all()


@pytest.mark.parametrize("scale", [1.0, 1e100, 1e-100])
def test_a_lasso_in_float64_is_one_though_float32_makes_its_start(scale):
    generator = torch.Generator().manual_seed(0)
    x, dictionary = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(20, 8), (30, 8)]
    )
    solver, penalty = CoordinateDescent(tol=1e-12), L1(0.5 * scale)
    found = solver.solve(x * scale, dictionary, penalty=penalty)
    assert bool(found.converged.all())
    codes = found.codes.to_dense()
    gradient = (codes @ dictionary - x * scale) @ dictionary.T
    assert float(penalty.subdiff_distance(codes, gradient).max()) < 1e-10 * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lars_ends_where_coordinate_descent_does(dtype):
    generator = torch.Generator().manual_seed(0)  # a path leaves rounding in an entry
    x, dictionary = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in [(9, 8), (30, 8)]
    )
    x[4] = 0
    path = LARS().solve(x, dictionary, penalty=L1(1.5))
    wanted = CoordinateDescent(tol=1e-5).solve(x, dictionary, penalty=L1(1.5))
    torch.testing.assert_close(path.objective, wanted.objective, rtol=1e-5, atol=1e-6)
    assert path.codes.dtype == dtype
    assert bool(path.converged.all())
    assert int(path.codes.n_active[4]) == 0
    with pytest.warns(NotConvergedWarning, match="`LARS` did not converge"):
        LARS(max_iter=1).solve(x, dictionary, penalty=L1(0.1))
    with pytest.raises(TypeError, match="`LARS` needs a penalty that is `L1`; `ElasticNet` is not"):
        LARS().solve(x, dictionary, penalty=ElasticNet(1.0, 1.0))


def sparse_rows(n_rows=60):
    return [part.double() for part in make_sparse_data(n_rows, 16, 40, k=3, noise=0.01)[:2]]


CORNERED = [L0(0.02), LHalf(0.02), LTwoThirds(0.02)]
OTHERS = [
    CEL0(0.02),
    MCP(0.1, gamma=2.0),
    SCAD(0.1, a=3.7),
    LogSum(0.05, 0.1),
    ElasticNet(0.1, 0.1),
]


@pytest.mark.parametrize("penalty", CORNERED, ids=lambda penalty: type(penalty).__name__)
def test_coordinate_descent_leaves_zero_where_that_costs_less(penalty):
    x, dictionary = sparse_rows()
    found = CoordinateDescent().solve(x, dictionary, penalty=penalty)
    zero = x.square().sum(1) / 2
    assert float(found.objective.mean()) < 0.6 * float(zero.mean())
    assert bool(found.converged.all())


@pytest.mark.parametrize("penalty", CORNERED + OTHERS, ids=lambda penalty: type(penalty).__name__)
def test_codes_of_coordinate_descent_do_not_depend_on_other_rows(penalty):
    x, dictionary = sparse_rows(25)
    solve = partial(CoordinateDescent().solve, penalty=penalty, warn=False)
    whole = solve(x, dictionary).codes.to_dense()
    alone = [solve(row[None], dictionary).codes.to_dense() for row in x]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=0, atol=1e-12)


def test_starts_that_are_not_finite_and_empty_dictionaries_are_refused():
    x, dictionary = sparse_rows(2)
    start = torch.full((2, 40), torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="`start` must be finite; got NaN"):
        FISTA().solve(x, dictionary, penalty=L1(1.0), start=start)
    with pytest.raises(ValueError, match="`dictionary` must have at least one atom; got none"):
        FISTA().solve(x, dictionary[:0], penalty=L1(1.0))


@pytest.mark.parametrize("solver", [*GREEDY, *BAYES], ids=name)
def test_a_start_that_makes_no_difference_is_said_to_be_ignored(solver, x, dictionary):
    start = torch.zeros(23, 37)
    if name(solver) == "IHT":
        assert solver.solve(x, dictionary, start=start).converged.all()
        return
    with pytest.warns(UserWarning, match="begins at zero codes; `start` is ignored"):
        solver.solve(x, dictionary, start=start)


@pytest.mark.parametrize("kind", [MaskedQuadratic, WeightedQuadratic], ids=lambda k: k.__name__)
def test_masks_and_weights_take_the_form_of_the_rows(kind, x, dictionary):
    held: Any = np.random.default_rng(0).random((23, 20))
    held = held < 0.7 if kind is MaskedQuadratic else held
    solve = partial(FISTA(tol=1e-4).solve, x.float(), dictionary, penalty=L1(0.1))
    single = solve(datafit=kind(held)).codes
    assert single.dtype == torch.float32
    wanted = solve(datafit=kind(torch.from_numpy(held))).codes.to_dense()
    assert torch.equal(single.to_dense(), wanted)
    named = "mask" if kind is MaskedQuadratic else "weights"
    with pytest.raises(ValueError, match=rf"`{named}` must have .* = \(23, 20\); got \(1, 20"):
        solve(datafit=kind(held[:1]))
