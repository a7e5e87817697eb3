import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, ridge_regression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode.decomposition import SparsePCA
from sparsecode.penalties import L1

SOLVERS = [
    {"solver": "elastic_net"},
    {"solver": "elastic_net", "n_nonzero": 2},
    {"solver": "proximal_gradient"},
    {"solver": "proximal_gradient", "n_nonzero": 2},
    {"solver": "tpower", "n_nonzero": 2},
]


def solver_id(settings: dict[str, Any]) -> str:
    return "-".join(str(value) for value in settings.values())


each_solver = pytest.mark.parametrize("settings", SOLVERS, ids=solver_id)


@pytest.fixture(name="X")
def x() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 12)) * (rng.random((4, 12)) < 0.4)
    return rng.normal(size=(90, 4)) @ mixing * 2 + 0.2 * rng.normal(size=(90, 12)) + 3


# scikit-learn's contract


@parametrize_with_checks(
    [
        SparsePCA(),
        SparsePCA(1, n_nonzero=1, n_init=2),
        SparsePCA(1, solver="tpower", n_nonzero=1),
        SparsePCA(solver="proximal_gradient", penalty=L1(0.5), n_init=1, max_iter=20),
        SparsePCA(transform_algorithm="ridge", whiten=True, init="random", n_init=1),
    ]
)
def test_check_estimator(estimator: SparsePCA, check: Any) -> None:
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
    getattr(estimator_checks, name)("SparsePCA", SparsePCA(n_init=1))


@each_solver
def test_each_row_is_transformed_by_itself(settings: dict[str, Any], X: np.ndarray) -> None:
    pca = SparsePCA(3, whiten=True, **settings).fit(X)
    whole = pca.transform(X)
    parts = np.vstack([pca.transform(part) for part in np.split(X, [1, 2, 40])])
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype: type, X: np.ndarray) -> None:
    pca = SparsePCA(3, alpha=2.0, whiten=True).fit(X.astype(dtype))
    Z = pca.transform(X.astype(dtype))
    assert Z.dtype == dtype
    assert pca.inverse_transform(Z).dtype == dtype
    learned = ("components_", "mean_", "projection_", "explained_variance_", "scale_")
    assert {getattr(pca, name).dtype for name in learned} == {np.dtype(dtype)}


def test_float32_finds_what_float64_finds(X: np.ndarray) -> None:
    single, double = (SparsePCA(3, alpha=2.0).fit(X.astype(t)) for t in (np.float32, np.float64))
    np.testing.assert_allclose(single.components_, double.components_, atol=1e-4)


def test_a_data_frame_gives_names(X: np.ndarray) -> None:
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(12)])
    pca = SparsePCA(2).set_output(transform="pandas").fit(frame)
    assert list(pca.transform(frame).columns) == ["sparsepca0", "sparsepca1"]
    assert list(pca.feature_names_in_) == list(frame.columns)


def test_a_readonly_memory_map_is_read(X: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    pca = SparsePCA(3).fit(mapped)
    np.testing.assert_array_equal(pca.transform(mapped), SparsePCA(3).fit(X).transform(X))


def test_pickling_keeps_everything_that_learning_goes_on_from(X: np.ndarray) -> None:
    pca = SparsePCA(3, alpha=2.0).fit(X[:50])
    copied = pickle.loads(pickle.dumps(pca))
    np.testing.assert_array_equal(copied.transform(X), pca.transform(X))
    pca.partial_fit(X[50:])
    copied.partial_fit(X[50:])
    np.testing.assert_array_equal(copied.components_, pca.components_)


def test_clone_keeps_parameters_and_nothing_learned(X: np.ndarray) -> None:
    pca = SparsePCA(3, solver="proximal_gradient", penalty=L1(0.3), init=np.eye(3, 12)).fit(X)
    cloned = clone(pca)
    assert cloned.penalty == L1(0.3)
    with pytest.raises(NotFittedError):
        cloned.transform(X)


def test_it_is_searched_over_in_a_pipeline(X: np.ndarray) -> None:
    y = X[:, 0] > X[:, 1]
    pipeline = make_pipeline(SparsePCA(3, n_init=1), LogisticRegression())
    grid = {"sparsepca__n_nonzero": [1, 4], "sparsepca__whiten": [False, True]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.6


def test_a_tensor_gives_a_differentiable_tensor(X: np.ndarray) -> None:
    x = torch.tensor(X, dtype=torch.float32, requires_grad=True)
    pca = SparsePCA(3).fit(x)
    assert pca.partial_fit(x).n_samples_seen_ == 2 * len(X)
    Z = pca.transform(x)
    np.testing.assert_allclose(Z.detach(), pca.transform(X), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(Z[:, 1].sum(), x)
    np.testing.assert_allclose(gradient[0], pca.projection_[1])
    assert isinstance(pca.inverse_transform(Z), torch.Tensor)


# What is learned


@each_solver
def test_components_are_of_unit_norm_and_none_is_dead(
    settings: dict[str, Any], X: np.ndarray
) -> None:
    pca = SparsePCA(**settings).fit(X)
    assert pca.components_.shape == (12, 12)
    np.testing.assert_allclose(np.linalg.norm(pca.components_, axis=1), 1)
    if "n_nonzero" in settings:
        assert (np.count_nonzero(pca.components_, axis=1) == 2).all()


@each_solver
def test_order_and_signs_are_stable(settings: dict[str, Any], X: np.ndarray) -> None:
    pca = SparsePCA(4, **settings).fit(X)
    largest = np.abs(pca.components_).argmax(1)
    assert (pca.components_[np.arange(4), largest] > 0).all()
    assert (np.diff(pca.explained_variance_) <= 1e-12).all()
    again = SparsePCA(4, **settings).fit(X)
    np.testing.assert_array_equal(again.components_, pca.components_)
    shuffled = SparsePCA(4, **settings).fit(np.random.default_rng(1).permutation(X))
    np.testing.assert_allclose(shuffled.components_, pca.components_, atol=1e-6)


def test_without_penalty_it_is_pca(X: np.ndarray) -> None:
    pca = PCA(5).fit(X)
    sparse = SparsePCA(5, alpha=0.0, init="svd", n_init=1).fit(X)
    cosines = np.abs(np.sum(sparse.components_ * pca.components_, axis=1))
    np.testing.assert_allclose(cosines, 1)
    np.testing.assert_allclose(sparse.explained_variance_, pca.explained_variance_)
    ratio = sparse.explained_variance_ratio_
    np.testing.assert_allclose(ratio, pca.explained_variance_ratio_)


def test_more_weight_gives_fewer_loadings_and_explains_less(X: np.ndarray) -> None:
    fits = [SparsePCA(4, alpha=alpha).fit(X) for alpha in (0.1, 3.0, 10.0)]
    counts = [np.count_nonzero(pca.components_) for pca in fits]
    variances = [pca.explained_variance_ratio_.sum() for pca in fits]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    assert variances == sorted(variances, reverse=True)


def test_too_much_weight_leaves_components_unused_but_not_zero(X: np.ndarray) -> None:
    pca = SparsePCA(3, alpha=1e6).fit(X)
    assert pca.n_unused_ == 3
    assert np.count_nonzero(pca.components_, axis=1).tolist() == [1, 1, 1]
    most_varied = np.argsort(X.var(0))[::-1][:3]
    assert set(pca.components_.argmax(1)) == set(most_varied)


def test_constant_data_is_transformed_to_zero() -> None:
    X = np.full((5, 3), 7.0)
    pca = SparsePCA(2, whiten=True).fit(X)
    assert not pca.transform(X).any()
    assert pca.explained_variance_ratio_.tolist() == [0, 0]
    assert pca.n_unused_ == 2


def test_objective_is_that_of_sklearn(X: np.ndarray) -> None:
    pca = SparsePCA(3, alpha=2.0, l2_alpha=0.5).fit(X)
    # The loadings are gone, but the best scores and lengths for these directions cannot be better.
    assert pca.error_[-1] <= pca.error_[0]
    free = SparsePCA(3, alpha=0.0).fit(X)
    values = np.linalg.svd(X - X.mean(0), compute_uv=False)
    assert free.error_[-1] == pytest.approx(0.5 * (values[3:] ** 2).sum(), rel=1e-4)


def test_more_starts_end_no_higher(X: np.ndarray) -> None:
    ends = [SparsePCA(5, alpha=4.0, n_init=n).fit(X).error_[-1] for n in (1, 3, 8)]
    assert ends == sorted(ends, reverse=True)
    assert SparsePCA(5, alpha=4.0).fit(X).error_[-1] == ends[-1]


def test_exact_numbers_of_loadings_start_once_unless_told(X: np.ndarray) -> None:
    ends = [SparsePCA(5, n_nonzero=2, n_init=n).fit(X).error_ for n in ("auto", 1)]
    np.testing.assert_array_equal(*ends)


def test_a_start_can_be_given(X: np.ndarray) -> None:
    first = SparsePCA(3, alpha=2.0).fit(X)
    again = SparsePCA(3, alpha=2.0, init=first.components_).fit(X)
    np.testing.assert_allclose(again.components_, first.components_, atol=1e-2)
    assert again.n_iter_ < 15


# Transforms


def test_projection_is_the_product_with_the_components(X: np.ndarray) -> None:
    pca = SparsePCA(3).fit(X)
    np.testing.assert_allclose(pca.transform(X), (X - X.mean(0)) @ pca.components_.T)


@pytest.mark.parametrize("ridge_alpha", [0.0, 0.01, 5.0])
def test_ridge_is_the_regression_of_sklearn(ridge_alpha: float, X: np.ndarray) -> None:
    pca = SparsePCA(3, transform_algorithm="ridge", ridge_alpha=ridge_alpha).fit(X)
    expected = ridge_regression(
        pca.components_.T, (X - X.mean(0)).T, ridge_alpha, solver="cholesky"
    )
    np.testing.assert_allclose(pca.transform(X), expected)


@pytest.mark.parametrize("transform_algorithm", ["projection", "ridge"])
def test_whitened_scores_have_unit_variance(transform_algorithm: str, X: np.ndarray) -> None:
    plain = SparsePCA(3, transform_algorithm=transform_algorithm).fit(X)
    white = SparsePCA(3, transform_algorithm=transform_algorithm, whiten=True).fit(X)
    np.testing.assert_allclose(white.transform(X).std(0, ddof=1), 1)
    np.testing.assert_allclose(white.transform(X) * white.scale_, plain.transform(X))


@pytest.mark.parametrize("whiten", [False, True])
def test_projection_is_inverted_to_the_closest_point_of_the_span(
    whiten: bool, X: np.ndarray
) -> None:
    pca = SparsePCA(3, whiten=whiten).fit(X)
    back = pca.inverse_transform(pca.transform(X))
    span = np.linalg.qr(pca.components_.T)[0]
    np.testing.assert_allclose(back, (X - X.mean(0)) @ span @ span.T + X.mean(0))


def test_ridge_scores_are_inverted_by_the_components(X: np.ndarray) -> None:
    pca = SparsePCA(3, transform_algorithm="ridge", whiten=True).fit(X)
    Z = pca.transform(X)
    expected = (Z * pca.scale_) @ pca.components_ + pca.mean_
    np.testing.assert_allclose(pca.inverse_transform(Z), expected)


# partial_fit


@pytest.mark.parametrize("settings", [{"alpha": 2.0}, {"n_nonzero": 3, "n_init": 3}], ids=str)
def test_batches_end_where_all_rows_at_once_end(settings: dict[str, Any], X: np.ndarray) -> None:
    pca = SparsePCA(3, **settings)
    for batch in np.split(X, 9):
        pca.partial_fit(batch)
    whole = SparsePCA(3, **settings).fit(X)
    assert pca.n_samples_seen_ == 90
    np.testing.assert_allclose(pca.mean_, whole.mean_)
    assert pca.error_[-1] == pytest.approx(whole.error_[-1], rel=1e-3)


def test_one_start_takes_ten_steps_from_the_components_before(X: np.ndarray) -> None:
    pca = SparsePCA(3, alpha=2.0, n_init=1, tol=0.0)
    for batch in np.split(X, 9):
        pca.partial_fit(batch)
    assert pca.n_iter_ == 10
    whole = SparsePCA(3, alpha=2.0, n_init=1).fit(X)
    assert pca.error_[-1] < 1.05 * whole.error_[-1]


def test_partial_fit_goes_on_from_fit(X: np.ndarray) -> None:
    split = SparsePCA(3, solver="tpower", n_nonzero=3).fit(X[:40]).partial_fit(X[40:])
    whole = SparsePCA(3, solver="tpower", n_nonzero=3).fit(X)
    np.testing.assert_allclose(split.components_, whole.components_, atol=1e-6)
    np.testing.assert_allclose(split.explained_variance_, whole.explained_variance_)


def test_fit_forgets_what_was_learned_before(X: np.ndarray) -> None:
    pca = SparsePCA(3).partial_fit(X[:40]).partial_fit(100 * X[40:])
    np.testing.assert_array_equal(pca.fit(X).components_, SparsePCA(3).fit(X).components_)


def test_a_single_row_can_be_added(X: np.ndarray) -> None:
    pca = SparsePCA(3).fit(X[:60])
    assert pca.partial_fit(X[60:61]).n_samples_seen_ == 61


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 13}, r"`n_components` must be an int in \[1, min\(n_samples, n_features"),
        ({"n_components": 0}, "`n_components` must be an int"),
        ({"n_nonzero": 13}, r"`n_nonzero` must be an int in \[1, n_features\]; got 13"),
        ({"transform_algorithm": "lasso"}, "`transform_algorithm` must be one of 'projection'"),
        ({"ridge_alpha": -1.0}, "`ridge_alpha` must be a finite number"),
        ({"init": "kmeans"}, "`init` must be one of 'varimax', 'svd', 'random'; got 'kmeans'"),
        ({"init": np.zeros((2, 5))}, r"`init` must have shape \(n_components, n_features\)"),
        ({"n_init": 0}, "`n_init` must be an int"),
        ({"device": "gpu"}, '`device` must be "auto" or a torch device'),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(settings: dict[str, Any], message: str, X: np.ndarray) -> None:
    with pytest.raises(ValueError, match=message):
        SparsePCA(**settings).fit(X)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3), "`X` must be a real tensor of shape"),
        (torch.zeros(1, 3), "with at least 2 rows"),
        (torch.tensor([[1.0, float("nan")], [1.0, 2.0]]), "`X` must be finite"),
    ],
    ids=["vector", "one row", "nan"],
)
def test_bad_tensors_are_refused(bad: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparsePCA().fit(bad)


def test_scores_of_the_wrong_width_are_refused(X: np.ndarray) -> None:
    pca = SparsePCA(3).fit(X)
    with pytest.raises(ValueError, match=r"`X` must hold scores .* \(any, 3\); got \(2, 4\)"):
        pca.inverse_transform(np.zeros((2, 4)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each_solver
def test_a_gpu_finds_what_the_cpu_finds(settings: dict[str, Any], X: np.ndarray) -> None:
    found = [SparsePCA(3, device=device, **settings).fit(X) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(found[0].components_, found[1].components_, atol=1e-5)
