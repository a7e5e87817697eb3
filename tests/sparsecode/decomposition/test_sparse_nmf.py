import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.decomposition import NMF
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode.decomposition import RobustSparseNMF
from sparsecode.metrics import recovery_error
from sparsecode.penalties import WeightedL1
from sparsecode.solvers import FISTA, NotConvergedWarning

FAST: Any = {"max_iter": 30}
unfinished = pytest.mark.filterwarnings("ignore:`RobustSparseNMF` did not converge")


def planted(n_rows: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, their sparse non-negative codes, and the four parts."""
    rng = np.random.default_rng(seed)
    parts = rng.random((4, 20)) * (rng.random((4, 20)) < 0.5)
    parts /= np.linalg.norm(parts, axis=1, keepdims=True)
    codes = rng.random((n_rows, 4)) * (rng.random((n_rows, 4)) < 0.5)
    return codes @ parts, codes, parts


@pytest.fixture(name="X")
def x_() -> np.ndarray:
    return planted()[0] + 0.01 * np.random.default_rng(1).random((200, 20))


@unfinished
@parametrize_with_checks(
    [
        RobustSparseNMF(**FAST),
        RobustSparseNMF(2, alpha=0.1, weights="l21", sparse_output=True, **FAST),
        RobustSparseNMF(3, weights="correntropy", weight_axis="features", **FAST),
    ]
)
def test_check_estimator(estimator: RobustSparseNMF, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
    ],
)
@unfinished
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")  # the checks' own doing
def test_checks_that_check_estimator_leaves_out(name: str) -> None:
    getattr(estimator_checks, name)("RobustSparseNMF", RobustSparseNMF(**FAST))


@unfinished
@pytest.mark.parametrize("graph", [None, np.int64(3)])
def test_no_update_raises_the_objective(graph: Any, X: np.ndarray) -> None:
    model = RobustSparseNMF(4, alpha=0.05, graph=graph, max_iter=200, tol=0.0).fit(X)
    assert (np.diff(model.error_) <= 1e-6 * model.error_[:-1]).all()
    assert (model.components_ >= 0).all()
    assert (model.codes_ >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1)


def test_the_error_is_that_of_scikit_learn(X: np.ndarray) -> None:
    ours = RobustSparseNMF(4, max_iter=2000, tol=1e-7).fit(X).error_[-1]
    theirs = NMF(4, init="nndsvda", max_iter=2000, tol=1e-7).fit(X).reconstruction_err_ ** 2 / 2
    assert ours < 1.05 * theirs


def test_the_l1_norm_makes_codes_sparse(X: np.ndarray) -> None:
    dense, sparse = (RobustSparseNMF(6, alpha=a).fit(X).transform(X) for a in (0.0, 0.1))
    assert (sparse == 0).mean() > (dense == 0).mean() + 0.1


@unfinished  # without weights: outliers draw the parts on and on
@pytest.mark.parametrize("weights", ["l21", "correntropy"])
def test_outlying_rows_do_not_spoil_the_parts(weights: Any) -> None:
    X, _, truth = planted()
    X[:20] += 3 * np.random.default_rng(2).random((20, 20))
    errors = []
    for kind in (None, weights):
        model = RobustSparseNMF(4, alpha=0.01, weights=kind, max_iter=1500).fit(X)
        errors.append(recovery_error(torch.from_numpy(model.components_), torch.from_numpy(truth)))
    assert errors[1] < 0.5 * errors[0]
    assert model.weights_[:20].mean() < 0.3 * model.weights_[20:].mean()


def test_bad_features_can_be_weighted_down() -> None:
    X, _, _ = planted()
    X[:, 3] = 5 * np.random.default_rng(2).random(200)
    model = RobustSparseNMF(4, weights="correntropy", weight_axis="features", max_iter=1000).fit(X)
    assert model.weights_.shape == (20,)
    assert model.weights_[3] < 0.05
    assert np.median(model.weights_) > 0.3


def test_missing_entries_are_imputed() -> None:
    X, _, _ = planted()
    hidden = np.random.default_rng(3).random(X.shape) < 0.2
    holes = np.where(hidden, np.nan, X)
    model = RobustSparseNMF(4, max_iter=2000, tol=1e-7).fit(holes)
    filled = model.inverse_transform(model.transform(holes))
    assert np.square(filled - X)[hidden].sum() < 0.02 * np.square(X)[hidden].sum()


def test_a_graph_draws_codes_together(X: np.ndarray) -> None:
    groups = np.arange(200) // 50
    graph = scipy.sparse.csr_array((groups[:, None] == groups).astype(float) / 50)
    spread = []
    for weight in (0.0, 10.0):
        codes = RobustSparseNMF(4, graph=graph, graph_weight=weight).fit(X).codes_
        spread.append(np.mean([codes[groups == g].std(0).mean() for g in range(4)]))
    assert spread[1] < 0.5 * spread[0]


@unfinished
def test_csr_tensors_pickles_and_repeats(X: np.ndarray) -> None:
    before = torch.random.get_rng_state()
    model = RobustSparseNMF(4, alpha=0.05, **FAST).fit(X)
    codes = model.transform(X)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(
        RobustSparseNMF(4, alpha=0.05, **FAST).fit(X).components_, model.components_
    )
    assert torch.equal(model.transform(torch.from_numpy(X)), torch.from_numpy(codes))
    copied = pickle.loads(pickle.dumps(model)).set_params(sparse_output=True)
    np.testing.assert_array_equal(copied.transform(X).toarray(), codes)


def test_what_is_refused(X: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Negative values in data passed .*; got -1"):
        RobustSparseNMF().fit(np.where(X.max() == X, -1.0, X))
    with pytest.raises(ValueError, match=r"`graph` must be None, an int, .*got shape \(3, 3\)"):
        RobustSparseNMF(graph=np.eye(3)).fit(X)
    affinity = np.zeros((200, 200))
    affinity[0, 1] = 2.0
    with pytest.raises(ValueError, match=r"differ by 2 .* Pass \(graph \+ graph\.T\) / 2"):
        RobustSparseNMF(graph=affinity).fit(X)
    with pytest.raises(ValueError, match=r"finite, non-negative, symmetric .* got an affinity of"):
        RobustSparseNMF(graph=np.where(affinity > 0, np.nan, 0.0)).fit(X)
    unseen = X.copy()
    unseen[:, [2, 7]] = np.nan
    with pytest.raises(ValueError, match=r"got none of feature 2 \(2 features\)\. Drop them"):
        RobustSparseNMF().fit(unseen)
    wrong: Any = "huber"
    with pytest.raises(ValueError, match="`weights` must be"):
        RobustSparseNMF(weights=wrong).fit(X)
    with pytest.raises(NotFittedError):
        RobustSparseNMF().transform(X)


@pytest.mark.parametrize("weights", ["correntropy", "l21"])
def test_columns_of_zeros_do_not_take_all_the_weight(weights):
    rng = np.random.default_rng(0)
    informative = rng.random((80, 3)) @ rng.random((3, 10)) + 0.01 * rng.random((80, 10))
    data = np.hstack([informative, np.zeros((80, 12))])
    model = RobustSparseNMF(3, weights=weights, weight_axis="features", random_state=0).fit(data)
    assert float(model.weights_[:10].max()) > 1e-3
    fitted = model.codes_ @ model.components_
    assert np.linalg.norm(fitted - data) < 0.3 * np.linalg.norm(data)


def test_a_fit_that_did_not_converge_says_so(X):
    with pytest.warns(NotConvergedWarning, match="did not converge in 20 iterations") as caught:
        RobustSparseNMF(4, max_iter=20).fit(X)
    assert len(caught) == 1


@unfinished
def test_alpha_keeps_its_digits_and_is_checked_again(X):
    model = RobustSparseNMF(4, alpha=0.1, **FAST).fit(X)
    atoms = torch.from_numpy(model.components_)
    penalty = WeightedL1(torch.tensor(0.1, dtype=torch.float64), nonnegative=True)
    wanted = FISTA(tol=1e-4).solve(torch.from_numpy(X), atoms, penalty=penalty).codes.to_dense()
    np.testing.assert_allclose(model.transform(X), wanted, atol=1e-12)
    with pytest.raises(ValueError, match="`alpha` must be a finite number"):
        model.set_params(alpha=-1.0).transform(X)
