"""Two attack libraries that know nothing of our certificates never succeed inside them."""

import functools
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from sparsecode.decomposition import SparsePCA
from sparsecode.robustness import certified_radius, certify, layers_of

REASON = "attacks by {}: pip install 'sparsecode[dev]'"
ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
N_ROWS = 100
MODELS = {
    "pca": lambda: make_pipeline(PCA(20), LogisticRegression(max_iter=2000)),
    "spca": lambda: make_pipeline(
        SparsePCA(20, alpha=1.0, n_init=1), StandardScaler(), LogisticRegression(max_iter=2000)
    ),
    "network": lambda: make_pipeline(
        SparsePCA(20, alpha=1.0, n_init=1, whiten=True),
        MLPClassifier((32,), max_iter=60, random_state=0),
    ),
}


@pytest.fixture
def foolbox() -> ModuleType:
    return pytest.importorskip("foolbox", reason=REASON.format("Foolbox"), exc_type=ImportError)


@pytest.fixture
def art() -> ModuleType:
    return pytest.importorskip(
        "art.attacks.evasion",
        reason=REASON.format("the Adversarial Robustness Toolbox"),
        exc_type=ImportError,
    )


@pytest.fixture(params=[2, 10], ids=["binary", "multiclass"])
def n_classes(request: pytest.FixtureRequest) -> int:
    return request.param


@functools.cache
def digits_of(n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X[y < n_classes] / 16, y[y < n_classes]


@functools.cache
def fitted(name: str, n_classes: int) -> Any:
    return MODELS[name]().fit(*digits_of(n_classes))


@pytest.fixture
def digits(n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    return digits_of(n_classes)


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest, n_classes: int) -> Any:
    return fitted(request.param, n_classes)


def rows_by_radius(
    model: Any, digits: tuple[np.ndarray, np.ndarray], norm: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows that the model classifies correctly, their labels and their radii."""
    X, y = (a[:N_ROWS] for a in digits)
    radius = certified_radius(model, X, y, norm)
    return X[radius > 0], y[radius > 0], radius[radius > 0]


def assert_never_inside(
    model: Any, X: np.ndarray, y: np.ndarray, radius: np.ndarray, moved: np.ndarray, norm: str
) -> None:
    """Where the prediction changed, the step that was taken is longer than the radius."""
    changed = model.predict(moved.reshape(len(X), -1)) != y
    length = np.linalg.norm(moved.reshape(len(X), -1) - X, ord=ORDERS[norm], axis=1)
    assert not (changed & (length < radius * (1 - 1e-6))).any()


class Steps(nn.Module):
    """The model in units of each row's radius: ``x + radius * (z - x)``, so one eps fits all.

    Rows come in batches of all, in order; attacks of both libraries keep them so.
    """

    def __init__(self, network: nn.Module, X: np.ndarray, radius: np.ndarray) -> None:
        super().__init__()
        self.network = network
        self.x, self.radius = torch.from_numpy(X).float(), torch.from_numpy(radius).float()[:, None]

    def forward(self, z: Tensor) -> Tensor:
        return self.network(self.x + self.radius * (z - self.x))

    def moved(self, z: Tensor | np.ndarray) -> np.ndarray:
        z = torch.as_tensor(z).double()
        return (self.x.double() + self.radius.double() * (z - self.x.double())).numpy()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_foolbox_never_succeeds_inside_the_radius(
    model: Any, digits: tuple[np.ndarray, np.ndarray], norm: str, foolbox: ModuleType
) -> None:
    X, y, radius = rows_by_radius(model, digits, norm)
    steps = Steps(layers_of(model, X.shape[1:]).module(), X, radius).eval()
    target = foolbox.PyTorchModel(steps, bounds=(-1e3, 1e3), device="cpu")
    labels = torch.from_numpy(y)
    names = {
        "linf": ("LinfPGD", "LinfFastGradientAttack", "LinfBasicIterativeAttack"),
        "l2": ("L2PGD", "L2FastGradientAttack", "L2DeepFoolAttack"),
        "l1": ("L1PGD", "L1FastGradientAttack", "SparseL1DescentAttack"),
    }[norm]
    broken = np.zeros(len(X), dtype=bool)
    for name in names:
        for eps in (0.999, 1.05):
            _, moved, _ = getattr(foolbox.attacks, name)()(target, steps.x, labels, epsilons=eps)
            points = steps.moved(moved)
            assert_never_inside(model, X, y, radius, points, norm)
            broken |= (model.predict(points) != y) & (eps > 1)
    # Just outside they do succeed, where the radius is exact: the attack is not merely weak.
    if certify(model, X, y, norm).is_exact and len(np.unique(y)) == 2:
        assert broken.mean() > 0.95


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_art_never_succeeds_inside_the_radius(
    model: Any, digits: tuple[np.ndarray, np.ndarray], norm: str, art: ModuleType
) -> None:
    from art.estimators.classification import PyTorchClassifier

    X, y, radius = rows_by_radius(model, digits, norm)
    steps = Steps(layers_of(model, X.shape[1:]).module(), X, radius).eval()
    target = PyTorchClassifier(
        steps, nn.CrossEntropyLoss(), X.shape[1:], len(np.unique(digits[1])), device_type="cpu"
    )
    common = {"norm": ORDERS[norm], "batch_size": len(X)}
    broken = np.zeros(len(X), dtype=bool)
    for eps in (0.999, 1.05):
        attacks = [
            art.FastGradientMethod(target, eps=eps, eps_step=eps, **common),
            art.ProjectedGradientDescent(
                target, eps=eps, eps_step=eps / 4, max_iter=20, verbose=False, **common
            ),
            art.MomentumIterativeMethod(
                target, eps=eps, eps_step=eps / 10, max_iter=10, verbose=False, **common
            ),
        ]
        for attack in attacks:
            points = steps.moved(attack.generate(X.astype(np.float32), y))
            assert_never_inside(model, X, y, radius, points, norm)
            broken |= (model.predict(points) != y) & (eps > 1)
    if certify(model, X, y, norm).is_exact and len(np.unique(y)) == 2:
        assert broken.mean() > 0.95
