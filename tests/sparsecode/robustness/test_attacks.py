import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from torch import nn

from sparsecode.robustness import certified_accuracy
from sparsecode.robustness.attacks import ATTACKS, DEFINED, adversarial_examples
from sparsecode.robustness.target import target_of

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}


@pytest.fixture
def art() -> None:
    reason = "needs the attack library: pip install 'sparsecode[robustness]'"
    pytest.importorskip("art", reason=reason, exc_type=ImportError)


def data(n_classes: int, n: int = 60, d: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n_classes)
    y = rng.integers(0, n_classes, size=n)
    return rng.normal(size=(n_classes, d))[y] + rng.normal(size=(n, d)), y


def numpy_state() -> np.ndarray:
    return np.random.get_state()[1].copy()  # noqa: NPY002 - the toolbox draws from it


def attacked(model: Any, X: np.ndarray, y: np.ndarray, **settings: Any) -> np.ndarray:
    return adversarial_examples(target_of(model, X.shape[1:]), X, y, **settings)


@pytest.mark.parametrize(
    ("norm", "attack"), [(norm, attack) for norm in DEFINED for attack in DEFINED[norm]]
)
@pytest.mark.parametrize("box", [None, (-2.0, 2.0)], ids=["free", "box"])
def test_examples_stay_in_ball_and_box(attack: str, norm: str, box: Any, art: None) -> None:
    X, y = data(3)
    X = X if box is None else X.clip(*box)
    model = MLPClassifier((8,), random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    moved = attacked(model, X, y, attack=attack, eps=0.5, norm=norm, box=box)
    lengths = np.linalg.norm(moved - X, ord=ORDERS[norm], axis=1)
    assert moved.dtype == np.float64
    assert lengths.max() <= 0.5 * (1 + 1e-12)
    assert lengths.max() > 0.1
    if box is not None:
        assert moved.min() >= -2
        assert moved.max() <= 2


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["plain", "saturated"])
def test_on_two_classes_one_step_does_all_that_a_certificate_allows(
    norm: str, scale: float, art: None
) -> None:
    # The gradient of a linear score is the worst direction, so both accuracies are equal; also
    # where the softmax of the scores is 0 or 1 in float32.
    X, y = data(2, n=200)
    model = LogisticRegression().fit(X, y)
    model.coef_ *= scale
    model.intercept_ *= scale
    for eps in (0.05, 0.2, 0.6):
        moved = attacked(model, X, y, attack="fgsm", eps=eps, norm=norm)
        certified = certified_accuracy(model, X, y, eps, norm)
        assert (model.predict(moved) == y).mean() == pytest.approx(float(certified), abs=0.006)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_many_steps_come_close_to_the_certificate(norm: str, art: None) -> None:
    X, y = data(10, n=300)
    model = LogisticRegression().fit(X, y)
    for eps in (0.1, 0.2, 0.4):
        moved = attacked(model, X, y, attack="pgd", eps=eps, norm=norm)
        certified = float(certified_accuracy(model, X, y, eps, norm))
        assert certified <= (model.predict(moved) == y).mean() <= certified + 0.02


@pytest.mark.parametrize("attack", ATTACKS)
def test_seeds_repeat_an_attack_and_leave_global_random_states_alone(
    attack: str, art: None
) -> None:
    X, y = data(3, n=20)
    model = LogisticRegression().fit(X, y)
    before = numpy_state(), random.getstate(), torch.get_rng_state()
    first, again = (
        attacked(model, X, y, attack=attack, eps=0.3, norm="l2", seed=3) for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(numpy_state(), before[0])
    assert random.getstate() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    ("n_features", "image_shape"),
    [(1, None), (4, None), (7, None), (9, None), (121, None), (24, (2, 3, 4)), (26, (1, 13, 2))],
    ids=str,
)
def test_square_takes_rows_of_any_width(
    n_features: int, image_shape: tuple[int, int, int] | None, norm: str, art: None
) -> None:
    X, y = data(2, n=12, d=n_features)
    model = nn.Linear(n_features, 2)
    moved = attacked(
        model, X, y, attack="square", eps=2.0, norm=norm, image_shape=image_shape, batch_size=64
    )
    assert moved.shape == X.shape
    assert (moved != X).any()


def test_square_breaks_what_it_can(art: None) -> None:
    X = np.random.default_rng(0).normal(size=(100, 64))
    y = (X.mean(1) > 0).astype(int)
    model = LogisticRegression().fit(X, y)  # brightness: any tile of one sign moves it
    moved = attacked(model, X, y, attack="square", eps=0.2)
    certified = float(certified_accuracy(model, X, y, 0.2))
    assert certified <= (model.predict(moved) == y).mean() < 0.5 * (1 + certified)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": "deepfool"}, "`attack` must be one of 'fgsm', 'pgd', 'mim', 'square'"),
        ({"attack": "square", "norm": "l1"}, "`attack` must be one of 'fgsm', 'pgd', 'mim'; got"),
        ({"norm": "l0"}, "`norm` must be one of 'linf', 'l2', 'l1'"),
        ({"eps": 0.0}, "`eps` must be a finite number in"),
        ({"attack": "square", "image_shape": (1, 5, 5)}, r"`image_shape` .* with 12 pixels in all"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    X, y = data(2)
    with pytest.raises(ValueError, match=message):
        attacked(nn.Linear(12, 2), X, y, **{"attack": "fgsm", "eps": 0.1} | settings)


def test_without_the_library_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "art"] + ["art"]:
        monkeypatch.setitem(sys.modules, name, None)
    X, y = data(2)
    with pytest.raises(ImportError, match=r"pip install 'sparsecode\[robustness\]'"):
        attacked(nn.Linear(12, 2), X, y, attack="fgsm", eps=0.1)
