from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from sparsecode.decomposition import SparsePCA
from sparsecode.robustness import (
    NotFoldableError,
    certified_accuracy,
    certified_radius,
    certify,
    worst_case_step,
)

NORMS = ("linf", "l2", "l1")
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
RNG = np.random.default_rng(0)


def data(n_classes: int, n: int = 200, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_classes)
    y = rng.integers(0, n_classes, size=n)
    return rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n, d)), y


def predicted(module: nn.Module, X: np.ndarray) -> np.ndarray:
    scores = module(torch.from_numpy(X)).detach()
    return (scores[:, 0] > 0 if scores.shape[1] == 1 else scores.argmax(1)).long().numpy()


def assert_exact(model: Any, predict: Any, X: np.ndarray, y: np.ndarray, norm: str) -> None:
    """Every sample keeps its label at 0.999 r, and loses it at 1.001 r, in the worst direction."""
    radius = certified_radius(model, X, y, norm=norm)
    step = worst_case_step(model, X, y, norm=norm)
    right = predict(X) == y
    assert right.any()
    assert (radius[right] > 0).all()
    assert not radius[~right].any()
    np.testing.assert_allclose(np.linalg.norm(step, ord=ORDERS[norm], axis=1), radius, rtol=1e-9)
    assert (predict(X + 0.999 * step)[right] == y[right]).all()
    assert (predict(X + 1.001 * step)[right] != y[right]).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(),
        make_pipeline(StandardScaler(), PCA(8, whiten=True), LogisticRegression()),
        make_pipeline(SparsePCA(6, n_nonzero=4, n_init=1), StandardScaler(), LinearSVC()),
        make_pipeline(
            MinMaxScaler(),
            SparsePCA(6, alpha=1.0, transform_algorithm="ridge"),
            LogisticRegression(),
        ),
    ],
    ids=["plain", "pca", "spca", "ridge spca"],
)
def test_pipelines_have_exact_radii(model: Any, n_classes: int, norm: str) -> None:
    X, y = data(n_classes)
    model.fit(X, y)
    assert certify(model, X, y, norm).is_exact
    assert_exact(model, model.predict, X, y, norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("n_outputs", [1, 2, 5])
def test_torch_heads_have_exact_radii(n_outputs: int, norm: str) -> None:
    X, _ = data(3)
    head = nn.Sequential(nn.Linear(12, 7), nn.Identity(), nn.Linear(7, n_outputs)).double()
    y = predicted(head, X)
    y[:20] = (y[:20] + 1) % max(n_outputs, 2)
    assert_exact(head, lambda points: predicted(head, points), X, y, norm)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_features=st.integers(1, 17),
    n_classes=st.integers(1, 6),
    n_components=st.integers(1, 9),
    sparse=st.booleans(),
    log_scale=st.floats(-6, 6),
    norm=st.sampled_from(NORMS),
)
def test_random_heads_have_exact_radii(
    seed: int,
    n_features: int,
    n_classes: int,
    n_components: int,
    sparse: bool,
    log_scale: float,
    norm: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    front = torch.randn(n_components, n_features, generator=generator, dtype=torch.float64)
    if sparse:
        front *= torch.rand(front.shape, generator=generator) < 0.3
    module = nn.Sequential(
        nn.Linear(n_features, n_components), nn.Linear(n_components, n_classes)
    ).double()
    with torch.no_grad():
        module[0].weight.copy_(front * 10**log_scale)
        for parameter in (module[0].bias, module[1].weight, module[1].bias):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    X = torch.randn(30, n_features, generator=generator, dtype=torch.float64).numpy()
    y = predicted(module, X)
    radius, step = certified_radius(module, X, y, norm), worst_case_step(module, X, y, norm)
    assert (predicted(module, X + 0.999 * step) == y).all()
    # Where the front end is all zeros nothing ever changes; where the input hardly counts, a step
    # that crosses the boundary is lost to rounding.
    seen = np.isfinite(radius) & (radius < 1e6)
    assert (predicted(module, X + 1.001 * step)[seen] != y[seen]).all()
    assert not step[np.isinf(radius)].any()


def test_radii_in_closed_form() -> None:
    head = nn.Linear(2, 1).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, -4.0]]))
        head.bias.fill_(1.0)
    X = [[2.0, 1.0], [0.0, 1.0]]  # scores 3 and -3
    for norm, slope in (("linf", 7.0), ("l2", 5.0), ("l1", 4.0)):
        np.testing.assert_allclose(certified_radius(head, X, [1, 0], norm), [3 / slope] * 2)


def test_the_nearest_rival_is_named() -> None:
    head = nn.Linear(2, 3).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0], [-1.0, 0], [0, 1.0]]))
        head.bias.zero_()
    certificate = certify(head, [[2.0, 1.0], [2.0, -3.0]], [0, 0], "l2")
    assert certificate.rival.tolist() == [2, 1]
    np.testing.assert_allclose(certificate.radius, [1 / 2**0.5, 2.0])


@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_does_not_depend_on_how_the_front_end_is_written(norm: str) -> None:
    X, y = data(4)
    scaler, pca = StandardScaler().fit(X), SparsePCA(5).fit(X)
    Z = pca.transform(scaler.transform(X))
    head = LogisticRegression().fit(Z, y)
    folded = LogisticRegression().fit(X, y)
    folded.coef_ = head.coef_ @ pca.projection_ / scaler.scale_
    folded.intercept_ = head.intercept_ - head.coef_ @ pca.projection_ @ (
        scaler.mean_ / scaler.scale_ + pca.mean_
    )
    chain = certified_radius([scaler, pca, head], X, y, norm)
    np.testing.assert_allclose(chain, certified_radius(folded, X, y, norm), rtol=1e-8)


def test_scaling_the_input_scales_the_radius() -> None:
    X, y = data(3)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    larger = make_pipeline(StandardScaler(), LogisticRegression()).fit(100 * X, y)
    np.testing.assert_allclose(
        certified_radius(larger, 100 * X, y), 100 * certified_radius(model, X, y), rtol=1e-4
    )


def test_norms_bound_each_other() -> None:
    X, y = data(5)
    model = LogisticRegression().fit(X, y)
    linf, l2, l1 = (certified_radius(model, X, y, norm) for norm in NORMS)
    assert (linf <= l2 + 1e-12).all()
    assert (l2 <= l1 + 1e-12).all()
    assert (l2 <= linf * 12**0.5 + 1e-12).all()


def test_a_box_makes_it_a_lower_bound_and_says_so() -> None:
    X, y = data(2)
    model = LogisticRegression().fit(X, y)
    boxed = certify(model, X, y, box=(-5.0, 5.0))
    assert not boxed.is_exact
    assert boxed.kind == "lower bound: steps that leave the box are counted as attacks"
    np.testing.assert_array_equal(boxed.radius, certify(model, X, y).radius)


@pytest.mark.parametrize("norm", NORMS)
def test_networks_have_lower_bounds_that_say_so(norm: str) -> None:
    X, y = data(3)
    model = make_pipeline(
        StandardScaler(), SparsePCA(6), MLPClassifier((16,), max_iter=400, random_state=0, tol=1e-2)
    ).fit(X, y)
    certificate = certify(model, X, y, norm)
    assert certificate.kind == "lower bound: Lipschitz constants of the layers"
    assert 0 < certificate.radius.max() < np.inf
    # No random or gradient-like step inside the ball may change a prediction.
    right = model.predict(X) == y
    for _ in range(50):
        if norm == "l1":
            step = np.eye(12)[RNG.integers(0, 12, len(X))] * RNG.choice([-1, 1], (len(X), 1))
        else:
            step = RNG.choice([-1.0, 1.0], X.shape)
            step /= np.linalg.norm(step, ord=ORDERS[norm], axis=1, keepdims=True)
        moved = X + 0.999 * certificate.radius[:, None] * step
        assert (model.predict(moved)[right] == y[right]).all()


def test_a_network_without_activation_is_linear() -> None:
    X, y = data(3)
    network = nn.Sequential(nn.Linear(12, 5), nn.Dropout(), nn.Linear(5, 3)).double()
    assert certify(network, X, y).is_exact


def test_certified_accuracy_counts_radii() -> None:
    X, y = data(3)
    model = LogisticRegression().fit(X, y)
    radius = certified_radius(model, X, y, "l2")
    eps = np.array([[0.0, 0.1], [0.5, 10.0]])
    found = certified_accuracy(model, X, y, eps, "l2")
    assert found.shape == (2, 2)
    np.testing.assert_allclose(found, [[(radius > e).mean() for e in row] for row in eps])
    assert certify(model, X, y, "l2").accuracy(0.1) == found[0, 1]
    assert found[0, 0] == model.score(X, y)


def test_labels_may_be_of_any_kind_and_tensors_are_taken() -> None:
    X, y = data(3)
    names = np.array(["a", "b", "c"])
    model = LogisticRegression().fit(X, y)
    named = LogisticRegression().fit(X, names[y])
    radius = certified_radius(model, X, y)
    np.testing.assert_allclose(certified_radius(named, X, names[y]), radius)
    np.testing.assert_allclose(certified_radius(model, torch.tensor(X), torch.tensor(y)), radius)
    assert set(certify(named, X, names[y]).rival) <= {"a", "b", "c"}


@pytest.mark.parametrize(
    ("X", "y", "norm", "message"),
    [
        (np.zeros((2, 12)), [0, 1], "l3", "`norm` must be one of 'linf', 'l2', 'l1'; got 'l3'"),
        (np.zeros((2, 12)), [0, 7], "l2", "`y` must hold labels that the model knows"),
        (np.zeros((2, 12)), [0], "l2", "`y` must have one label for each of 2 rows; got 1"),
        (np.zeros(12), [0], "l2", r"`X` must have shape \(n_samples, ...\)"),
        (np.full((2, 12), np.nan), [0, 1], "l2", "`X` must be finite"),
        (np.zeros((2, 12)), [[0], [1]], "l2", r"`y` must have shape \(n_samples,\); got \(2, 1\)"),
        (np.zeros((2, 12)), None, "l2", r"`y` must have shape \(n_samples,\); got \(\)"),
    ],
    ids=["norm", "label", "length", "shape", "nan", "columns of labels", "no labels"],
)
def test_bad_inputs_are_refused(X: Any, y: Any, norm: str, message: str) -> None:
    model = LogisticRegression().fit(*data(3))
    with pytest.raises(ValueError, match=message):
        certified_radius(model, X, y, norm)


@pytest.mark.parametrize("box", [(1.0, 0.0), 1.0, (0.0, 0.5, 1.0)])
def test_a_box_must_be_a_range(box: Any) -> None:
    model = LogisticRegression().fit(*data(3))
    with pytest.raises(ValueError, match=r"`box` must be \(low, high\) with low < high"):
        certify(model, *data(3), box=box)


@pytest.mark.parametrize("norm", NORMS)
def test_a_prediction_that_cannot_change_has_an_infinite_radius(norm: str) -> None:
    head = nn.Linear(2, 3)
    head.weight.data.zero_()
    head.bias.data.copy_(torch.tensor([2.0, 1.0, 2.0]))
    found = certify(head, np.zeros((3, 2)), [0, 1, 2], norm)
    assert found.radius.tolist() == [0.0, 0.0, 0.0]  # two scores are tied
    head.bias.data[2] = 0.0
    found = certify(head, np.zeros((3, 2)), [0, 1, 2], norm)
    assert found.radius.tolist() == [np.inf, 0.0, 0.0]
    assert found.rival.tolist() == [0, 0, 0]
    assert (worst_case_step(head, np.zeros((1, 2)), [0], norm) == 0).all()


def test_sparse_rows_are_taken() -> None:
    X, y = data(3)
    model = make_pipeline(TruncatedSVD(4), LogisticRegression()).fit(scipy.sparse.csr_array(X), y)
    for sparse in (scipy.sparse.csr_array(X), scipy.sparse.csc_matrix(X)):
        assert (certified_radius(model, sparse, y) == certified_radius(model, X, y)).all()
        assert (worst_case_step(model, sparse, y) == worst_case_step(model, X, y)).all()


def test_networks_have_no_worst_case_in_closed_form() -> None:
    network = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(NotFoldableError, match="The scores must be linear for a worst case"):
        worst_case_step(network, *data(3))
