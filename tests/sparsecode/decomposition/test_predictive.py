import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode.datafits import Quadratic
from sparsecode.datasets import make_sparse_data
from sparsecode.decomposition import PredictiveSparseDecomposition
from sparsecode.penalties import L1
from sparsecode.solvers import FISTA, Problem

FAST: Any = {"max_epochs": 2, "n_steps": 3}
ALPHA = 0.1


@pytest.fixture(name="X")
def x_() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 8))


@parametrize_with_checks(
    [
        PredictiveSparseDecomposition(**FAST),
        PredictiveSparseDecomposition(3, encoder="tanh", sparse_output=True, **FAST),
        PredictiveSparseDecomposition(5, encoder="alista", n_layers=2, n_refine=2, **FAST),
    ]
)
def test_check_estimator(estimator: PredictiveSparseDecomposition, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_dataframe_column_names_consistency",
    ],
)
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")  # the checks' own doing
def test_checks_that_check_estimator_leaves_out(name: str) -> None:
    estimator = PredictiveSparseDecomposition(**FAST)
    getattr(estimator_checks, name)("PredictiveSparseDecomposition", estimator)


def lasso(x: torch.Tensor, atoms: torch.Tensor, z: torch.Tensor) -> float:
    return float(Problem(x, atoms, L1(ALPHA), Quadratic()).objective(z).mean())


@pytest.fixture(name="digits", scope="module")
def digits_() -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.from_numpy(load_digits().data).float()
    X = X - X.mean(0)
    X = X / X.norm(dim=1).mean()
    return X[:1400], X[1400:]


@pytest.fixture(name="lista", scope="module")
def lista_(digits: tuple[torch.Tensor, torch.Tensor]) -> PredictiveSparseDecomposition:
    settings: Any = {"alpha": ALPHA, "max_epochs": 30, "n_steps": 40, "lr": 0.005}
    return PredictiveSparseDecomposition(100, encoder="lista", **settings).fit(digits[0])


def steps(x: torch.Tensor, atoms: torch.Tensor, n: int, start: Any = None) -> torch.Tensor:
    solver = FISTA(max_iter=n, tol=0.0)
    return solver.solve(x, atoms, penalty=L1(ALPHA), start=start, warn=False).codes.to_dense()


def test_one_layer_of_lista_is_worth_five_steps_of_fista(
    lista: PredictiveSparseDecomposition, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    test, atoms = digits[1], torch.from_numpy(lista.components_)
    predicted = lista.transform(test)
    assert lasso(test, atoms, predicted) <= lasso(test, atoms, steps(test, atoms, 5))
    assert (predicted == 0).float().mean() > 0.3


def test_a_prediction_is_a_better_start_than_zeros(
    lista: PredictiveSparseDecomposition, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    test, atoms = digits[1], torch.from_numpy(lista.components_)
    predicted = lista.transform(test)
    for n in range(1, 6):
        warm = lasso(test, atoms, steps(test, atoms, n, predicted))
        assert warm < lasso(test, atoms, steps(test, atoms, n))
    refined = lista.set_params(n_refine=5).transform(test)
    lista.set_params(n_refine=0)
    assert lasso(test, atoms, refined) == pytest.approx(warm, rel=1e-4)


def test_the_tanh_network_learns(digits: tuple[torch.Tensor, torch.Tensor]) -> None:
    train, test = digits
    settings: Any = {"alpha": ALPHA, "max_epochs": 10, "lr": 0.01, "prediction_weight": 0.3}
    model = PredictiveSparseDecomposition(80, encoder="tanh", **settings).fit(train)
    atoms = torch.from_numpy(model.components_)
    best = lasso(test, atoms, steps(test, atoms, 300))
    zero = lasso(test, atoms, torch.zeros(len(test), 80))
    assert lasso(test, atoms, model.transform(test)) < (best + zero) / 2
    assert model.prediction_error_[-1] < model.prediction_error_[0]


@pytest.mark.parametrize("n_layers", [1, 5])
def test_alista_beats_as_many_steps_of_fista_on_a_dictionary_of_low_coherence(
    n_layers: int,
) -> None:
    X, atoms, _ = make_sparse_data(2000, 40, 60, k=3, signed=True)
    settings: Any = {"alpha": ALPHA, "lr": 0.03, "max_epochs": 8, "n_steps": 60}
    model = PredictiveSparseDecomposition(
        60, dictionary=atoms, encoder="alista", n_layers=n_layers, **settings
    ).fit(X[:1500])
    test = X[1500:]
    reached = lasso(test, atoms, model.transform(test))
    assert reached < 0.8 * lasso(test, atoms, steps(test, atoms, n_layers + 1))
    assert sum(part.numel() for part in model.module_.parameters()) == 2 * (n_layers + 1)


def test_a_given_dictionary_stays(X: np.ndarray) -> None:
    atoms = np.random.default_rng(1).normal(size=(5, 8))
    model = PredictiveSparseDecomposition(dictionary=atoms, **FAST).fit(X)
    np.testing.assert_array_equal(model.components_, atoms)
    assert model.transform(X).shape == (60, 5)


def test_runs_repeat_pickle_and_leave_the_global_state_alone(X: np.ndarray) -> None:
    before = torch.random.get_rng_state()
    first, second = (PredictiveSparseDecomposition(**FAST).fit(X) for _ in range(2))
    codes = first.transform(X)
    np.testing.assert_array_equal(second.transform(X), codes)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).transform(X), codes)
    assert torch.equal(torch.random.get_rng_state(), before)
    sparse = first.set_params(sparse_output=True).transform(X)
    np.testing.assert_array_equal(sparse.toarray(), codes)
    np.testing.assert_allclose(first.inverse_transform(sparse), codes @ first.components_)


def test_what_is_refused(X: np.ndarray) -> None:
    wrong: Any = "mlp"
    with pytest.raises(ValueError, match="`encoder` must be"):
        PredictiveSparseDecomposition(encoder=wrong).fit(X)
    with pytest.raises(ValueError, match="`dictionary` must have shape"):
        PredictiveSparseDecomposition(dictionary=np.ones((3, 7))).fit(X)
    with pytest.raises(ValueError, match="`n_steps` must be an int"):
        PredictiveSparseDecomposition(n_steps=0).fit(X)
    with pytest.raises(NotFittedError):
        PredictiveSparseDecomposition().transform(X)
