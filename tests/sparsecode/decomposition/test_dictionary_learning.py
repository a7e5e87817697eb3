import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode.datasets import make_sparse_data
from sparsecode.decomposition import DictionaryLearning
from sparsecode.metrics import recovery_error
from sparsecode.penalties import CEL0, L1
from sparsecode.solvers import FISTA, OMP, NotConvergedWarning

FAST: Any = {"solver": OMP(2), "max_epochs": 2}


@pytest.fixture(name="X")
def x_() -> np.ndarray:
    return make_sparse_data(200, 12, 16, k=2, noise=0.02, signed=True)[0].double().numpy()


@parametrize_with_checks(
    [
        DictionaryLearning(**FAST),
        DictionaryLearning(3, batch_size=None, nonnegative=True, sparse_output=True, **FAST),
        DictionaryLearning(2, max_epochs=2, penalty=L1(0.5), solver=FISTA(tol=1e-3)),
    ]
)
def test_check_estimator(estimator: DictionaryLearning, check: Any) -> None:
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
    getattr(estimator_checks, name)("DictionaryLearning", DictionaryLearning(**FAST))


def objective(atoms: np.ndarray, X: np.ndarray, alpha: float) -> float:
    x, dictionary = torch.from_numpy(X), torch.from_numpy(atoms)
    return float(FISTA().solve(x, dictionary, penalty=L1(alpha)).objective.mean())


@pytest.mark.filterwarnings("ignore:Objective did not converge")  # scikit-learn's own lasso
def test_the_objective_of_scikit_learn_is_reached(X: np.ndarray) -> None:
    theirs = MiniBatchDictionaryLearning(
        16, alpha=0.1, max_iter=50, batch_size=64, fit_algorithm="cd", random_state=0
    ).fit(X)
    ours = DictionaryLearning(16, penalty=L1(0.1), batch_size=64, max_epochs=50, tol=0.0).fit(X)
    best = objective(theirs.components_, X, 0.1)
    assert objective(ours.components_, X, 0.1) < 1.03 * best


@pytest.mark.parametrize("batch_size", [None, 100])
def test_a_planted_dictionary_is_found(batch_size: int | None) -> None:
    X, truth, _ = make_sparse_data(3000, 20, 24, k=2, signed=True)
    model = DictionaryLearning(
        24, solver=OMP(2), batch_size=batch_size, max_epochs=60, tol=1e-4, random_state=1
    ).fit(X)
    assert recovery_error(torch.from_numpy(model.components_), truth) < 0.08


def test_batch_learning_never_raises_the_convex_objective(X: np.ndarray) -> None:
    # All rows at once forget the codes of the pass before: exact alternating minimization.
    model = DictionaryLearning(
        16, penalty=L1(0.05), solver=FISTA(tol=1e-7), batch_size=None, max_epochs=15, tol=0.0
    ).fit(X)
    assert (np.diff(model.error_) <= 1e-6).all()


def test_a_penalty_that_is_not_convex(X: np.ndarray) -> None:
    model = DictionaryLearning(16, penalty=CEL0(0.05), max_epochs=10).fit(X)
    assert model.error_[-1] < 0.8 * model.error_[0]
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1)


def test_atoms_without_negative_entries(X: np.ndarray) -> None:
    model = DictionaryLearning(16, nonnegative=True, **FAST).fit(abs(X))
    assert (model.components_ >= 0).all()


def test_partial_fit_goes_on(X: np.ndarray) -> None:
    model = DictionaryLearning(16, **FAST)
    for _ in range(10):
        model.partial_fit(X)
    assert model.error_[-1] < 0.8 * model.error_[0]
    assert model.n_iter_ == 10
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        copied.partial_fit(X).components_, model.partial_fit(X).components_
    )
    with pytest.raises(ValueError, match="11 features, but DictionaryLearning is expecting 12"):
        model.partial_fit(X[:, 1:])


def test_atoms_that_no_row_uses_are_replaced(X: np.ndarray) -> None:
    init = np.tile(np.eye(12)[:1], (16, 1))  # OMP never takes a copy of the first
    model = DictionaryLearning(16, init=init, solver=OMP(2), max_epochs=8, tol=0.0).fit(X)
    assert (model.transform(X) != 0).any(0).all()
    assert model.error_[-1] < 0.5 * model.error_[0]


def test_rows_that_did_not_converge_are_told_once(X: np.ndarray) -> None:
    slow = DictionaryLearning(16, solver=FISTA(max_iter=2), penalty=L1(0.01), batch_size=20)
    with pytest.warns(NotConvergedWarning, match="codes of 200 of 200 rows did not") as caught:
        slow.set_params(max_epochs=2).fit(X)
    assert len(caught) == 1


def test_a_metric_serves_what_it_measures() -> None:
    # Weights seen by anisotropic inputs: the error of the layer's outputs counts.
    rng = np.random.default_rng(0)
    W, inputs = rng.normal(size=(300, 10)), rng.normal(size=(500, 10)) * np.logspace(0, -1.5, 10)
    errors = {}
    for name, metric in (("weights", None), ("outputs", inputs.T @ inputs)):
        model = DictionaryLearning(12, solver=OMP(3), metric=metric, max_epochs=30).fit(W)
        left = W - model.inverse_transform(model.transform(W))
        errors[name] = np.square(left @ inputs.T).sum()
    assert errors["outputs"] < 0.7 * errors["weights"]


def test_a_metric_of_identity_changes_nothing(X: np.ndarray) -> None:
    plain = DictionaryLearning(16, **FAST).fit(X)
    measured = DictionaryLearning(16, metric=np.eye(12), **FAST).fit(X)
    np.testing.assert_allclose(measured.components_, plain.components_, atol=1e-8)
    whole = DictionaryLearning(16, metric=np.eye(12, dtype=int), **FAST).fit(X)
    np.testing.assert_array_equal(whole.components_, measured.components_)


def test_runs_repeat_and_leave_the_global_state_alone(X: np.ndarray) -> None:
    before = torch.random.get_rng_state()
    first, second = (DictionaryLearning(16, **FAST).fit(X).components_ for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_csr_and_tensors(X: np.ndarray) -> None:
    model = DictionaryLearning(16, **FAST).fit(X)
    codes = model.transform(X)
    assert torch.equal(model.transform(torch.from_numpy(X)), torch.from_numpy(codes))
    sparse = model.set_params(sparse_output=True).transform(X)
    np.testing.assert_array_equal(sparse.toarray(), codes)
    np.testing.assert_allclose(model.inverse_transform(sparse), codes @ model.components_)


def test_what_is_refused(X: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`metric` must be positive definite"):
        DictionaryLearning(metric=np.zeros((12, 12)), **FAST).fit(X)
    with pytest.raises(ValueError, match="`nonnegative` must be False with a `metric`"):
        DictionaryLearning(metric=np.eye(12), nonnegative=True, **FAST).fit(X)
    with pytest.raises(TypeError, match="`OMP` takes no penalty; got `L1`"):
        DictionaryLearning(penalty=L1(1.0), **FAST).fit(X)
    with pytest.raises(NotFittedError):
        DictionaryLearning().transform(X)
