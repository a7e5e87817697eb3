import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from sparsecode.decomposition import SparsePCA
from sparsecode.robustness import NotFoldableError, SparsePCAClassifier, layers_of
from sparsecode.robustness.layers import LINEAR_HEADS, SLOPES, largest_slope

RNG = np.random.default_rng(0)
CENTERS = RNG.normal(size=(4, 6)) * 3
Y = RNG.integers(0, 4, size=120)
X = CENTERS[Y] + RNG.normal(size=(120, 6))
NAMES = np.array(["apple", "fig", "kiwi", "lime"])

HEADS = [
    LinearDiscriminantAnalysis(),
    LinearSVC(),
    LogisticRegression(max_iter=1000),
    LogisticRegressionCV(Cs=2, cv=2, max_iter=1000, l1_ratios=(0,), use_legacy_attributes=False),
    Perceptron(),
    RidgeClassifier(),
    RidgeClassifierCV(),
    SGDClassifier(random_state=0),
]


def points(n: int = 50) -> np.ndarray:
    return RNG.normal(size=(n, 6)) * 5


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, out: out**3)
    return module


def scores(model: Any, x: np.ndarray, **settings: Any) -> np.ndarray:
    return layers_of(model, x.shape[1:], **settings).scores(torch.from_numpy(x).flatten(1)).numpy()


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.filterwarnings("ignore:The default value:FutureWarning")
@pytest.mark.filterwarnings("ignore:The fitted attributes:FutureWarning")
def test_linear_heads_on_a_folded_front_end(head: Any, n_classes: int) -> None:
    kept = n_classes > Y
    model = make_pipeline(StandardScaler(), PCA(5), SparsePCA(4, n_nonzero=3, whiten=True), head)
    model = copy.deepcopy(model).fit(X[kept], NAMES[Y[kept]])
    layers = layers_of(model, (6,))
    x = points()
    found = layers.scores(torch.from_numpy(x))
    decision = model.decision_function(x)
    if n_classes == 2:
        decision = np.stack([np.zeros(len(x)), decision], 1)
    np.testing.assert_allclose(found, decision, rtol=1e-8, atol=1e-8)
    assert (layers.classes[found.argmax(1).numpy()] == model.predict(x)).all()
    assert layers.is_linear
    assert len(layers.weights) == 1


def test_all_linear_heads_are_checked_above() -> None:
    assert {type(head) for head in HEADS} == LINEAR_HEADS


@pytest.mark.parametrize("activation", ["identity", "logistic", "relu", "tanh"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_networks_of_sklearn(activation: str, n_classes: int) -> None:
    kept = n_classes > Y
    head = MLPClassifier((7, 5), activation=activation, random_state=0)
    Z = StandardScaler().fit_transform(X[kept])
    for _ in range(5):
        head.partial_fit(Z, Y[kept], classes=np.arange(n_classes))
    scaler = StandardScaler().fit(X[kept])
    x = points()
    found = scores([scaler, head], x)
    exp = np.exp(found - found.max(1, keepdims=True))
    np.testing.assert_allclose(
        exp / exp.sum(1, keepdims=True), head.predict_proba(scaler.transform(x)), atol=1e-9
    )
    assert layers_of([scaler, head], (6,)).is_linear == (activation == "identity")


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(6, 3),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))),
        nn.Sequential(
            nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)
        ),
        nn.Sequential(
            nn.Identity(), nn.Linear(6, 4), nn.LeakyReLU(-1.5), nn.ELU(2.0), nn.Linear(4, 2)
        ),
        nn.Sequential(
            nn.Unflatten(1, (1, 2, 3)),
            nn.Conv2d(1, 2, 2),
            nn.BatchNorm2d(2),
            nn.GELU(),
            nn.AvgPool2d((1, 2)),
            nn.Flatten(),
            nn.Linear(2, 3),
        ),
        nn.Sequential(
            nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 2, 2), nn.Flatten(), nn.SiLU(), nn.Linear(4, 3)
        ),
    ],
    ids=["linear", "nested", "batch norm", "slopes", "conv2d", "conv1d"],
)
def test_networks_of_torch(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    weights = copy.deepcopy(network.state_dict())
    x = points()
    found = scores(network, x)
    assert network.training
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    expected = copy.deepcopy(network).double().eval()(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last", [nn.Softmax(dim=1), nn.LogSoftmax(dim=-1), nn.Sigmoid()], ids=str)
def test_a_last_softmax_does_not_count(last: nn.Module) -> None:
    linear = nn.Linear(6, 3)
    np.testing.assert_array_equal(scores(nn.Sequential(linear, last), X), scores(linear, X))


def test_one_output_becomes_two_scores() -> None:
    linear = nn.Linear(6, 1)
    found = scores(nn.Sequential(linear, nn.Sigmoid()), X)
    assert not found[:, 0].any()
    np.testing.assert_allclose(
        found[:, 1:], linear(torch.from_numpy(X).float()).detach(), atol=1e-5
    )


def test_images_are_flattened() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.ReLU(), nn.Linear(16, 2))
    images = RNG.normal(size=(10, 1, 3, 5))
    expected = copy.deepcopy(network).double()(torch.from_numpy(images)).detach()
    np.testing.assert_allclose(scores(network, images), expected, atol=1e-9)


def test_a_torch_head_on_a_front_end_of_sklearn() -> None:
    front = [StandardScaler().fit(X), PCA(3).fit(X)]
    head = nn.Linear(3, 4)
    Z = front[1].transform(front[0].transform(X))
    expected = head(torch.from_numpy(Z).float()).detach()
    np.testing.assert_allclose(scores([*front, head], X), expected, atol=1e-5)


def test_a_search_stands_for_its_best_estimator() -> None:
    search = GridSearchCV(make_pipeline(PCA(), LogisticRegression()), {"pca__n_components": [2, 5]})
    search.fit(X, Y)
    np.testing.assert_allclose(scores(search, X), search.decision_function(X))


def test_a_sparse_pca_classifier_stands_for_its_pipeline() -> None:
    model = SparsePCAClassifier(4).fit(X, Y)
    np.testing.assert_allclose(scores(model, X), model.decision_function(X), atol=1e-9)


def test_the_module_is_the_same_function() -> None:
    model = make_pipeline(
        StandardScaler(), MLPClassifier((5,), max_iter=300, random_state=0, tol=1e-2)
    )
    layers = layers_of(model.fit(X, Y), (6,))
    x = torch.from_numpy(X)
    torch.testing.assert_close(layers.module(torch.float64)(x), layers.scores(x))
    assert layers.module()(x.float()).dtype == torch.float32


def test_labels_are_found_among_classes_of_any_kind() -> None:
    layers = layers_of(LogisticRegression().fit(X, NAMES[Y]), (6,))
    assert layers.label_indices(["kiwi", "apple"]).tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"labels that the model knows, .* got \['mango'\]"):
        layers.label_indices(["kiwi", "mango"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (GaussianNB().fit(X, Y), "The head must be one of .* got GaussianNB"),
        (
            make_pipeline(PolynomialFeatures(), LogisticRegression(max_iter=9000)).fit(X, Y),
            "PolynomialFeatures is not",
        ),
        (nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3)), "got LayerNorm"),
        (nn.Bilinear(6, 6, 3), "got Bilinear"),
        (nn.Sequential(nn.Linear(6, 3), nn.ReLU()), "A model must end with an affine layer"),
        (
            nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            "batch normalization must track statistics; got BatchNorm1d",
        ),
        (hooked(nn.Linear(6, 3)), "must be affine; it is not. Remove its hooks"),
        (nn.Sequential(hooked(nn.Tanh()), nn.Linear(6, 3)), "without hooks, .* got Tanh"),
        (hooked(nn.Sequential(nn.Linear(6, 3))), "without hooks, .* got Sequential"),
    ],
    ids=[
        "head",
        "front end",
        "layer",
        "module",
        "activation last",
        "statistics of a batch",
        "layer with a hook",
        "activation with a hook",
        "stack with a hook",
    ],
)
def test_other_models_are_refused(model: Any, message: str) -> None:
    with pytest.raises(NotFoldableError, match=message):
        layers_of(model, (6,))


def test_layers_must_fit_the_input() -> None:
    with pytest.raises(ValueError, match=r"Linear\(.* must take inputs of shape \(6,\); it says"):
        layers_of(nn.Linear(7, 3), (6,))
    with pytest.raises(ValueError, match=r"Flatten\(.* must keep 8 rows apart; got 48"):
        layers_of(nn.Sequential(nn.Flatten(0), nn.Linear(6, 3)), (6,))


@pytest.mark.parametrize(
    "head", [LogisticRegression(), MLPClassifier(), SparsePCAClassifier()], ids=repr
)
def test_models_must_be_fitted(head: Any) -> None:
    with pytest.raises(NotFittedError):
        layers_of(head, (6,))


@pytest.mark.parametrize("make", SLOPES, ids=lambda make: make.__name__)
def test_no_activation_is_steeper_than_its_largest_slope(make: type[nn.Module]) -> None:
    for activation in [make()] + [make(-2.0) for _ in range(make in {nn.LeakyReLU, nn.ELU})]:
        x = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
        steepest = float((activation(x).diff() / x.diff()).abs().max())
        assert 0.99 * largest_slope(activation) < steepest <= largest_slope(activation) + 1e-9
