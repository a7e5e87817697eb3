import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode.decomposition import SparsePCA
from sparsecode.robustness import SparsePCAClassifier, certified_radius


@pytest.fixture(scope="module", name="digits")
def first_three_digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X[y < 3] / 16, y[y < 3]


@pytest.fixture(scope="module")
def model(digits: tuple[np.ndarray, np.ndarray]) -> SparsePCAClassifier:
    X, y = digits
    return SparsePCAClassifier(n_components=10, n_nonzero=8).fit(X[:300], y[:300])


@parametrize_with_checks(
    [SparsePCAClassifier(), SparsePCAClassifier(head="mlp", n_epochs=10, alpha=0.5)]
)
def test_check_estimator(estimator: SparsePCAClassifier, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_held_out_digits_are_predicted(head: str, digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits
    model = SparsePCAClassifier(n_components=10, head=head, random_state=0, n_epochs=40)
    model.fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.95
    probabilities = model.predict_proba(X[300:])
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (model.classes_[probabilities.argmax(1)] == model.predict(X[300:])).all()


def test_the_linear_head_is_a_pipeline_of_two(digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits
    model = SparsePCAClassifier(8, alpha=0.5, C=0.3, whiten=False).fit(X, y)
    pipeline = make_pipeline(
        SparsePCA(8, alpha=0.5), LogisticRegression(C=0.3, max_iter=10_000)
    ).fit(X, y)
    np.testing.assert_allclose(model.decision_function(X), pipeline.decision_function(X))
    np.testing.assert_array_equal(model.pipeline_.predict(X), model.predict(X))
    for norm in ("linf", "l2", "l1"):
        np.testing.assert_allclose(
            model.certify(X, y, norm).radius, certified_radius(pipeline, X, y, norm)
        )


def test_parameters_reach_the_front_end(digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits
    model = SparsePCAClassifier(4, n_nonzero=6, solver="tpower", device="cpu").fit(X, y)
    found = model.front_end_.get_params()
    assert (found["n_components"], found["n_nonzero"], found["solver"]) == (4, 6, "tpower")
    assert found["whiten"]
    np.testing.assert_allclose(model.front_end_.transform(X).std(0, ddof=1), 1)


def test_certificates_say_what_they_are(
    model: SparsePCAClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = digits
    assert model.certify(X, y).is_exact
    assert "box" in model.certify(X, y, box=(0, 1)).kind
    network = SparsePCAClassifier(6, head="mlp", n_epochs=3, random_state=0).fit(X, y)
    assert "Lipschitz" in network.certify(X, y, "l2").kind


def test_the_report_is_that_of_the_pipeline(
    model: SparsePCAClassifier, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = digits[0][300:], digits[1][300:]
    report = model.robustness_report(X, y, [0.02, 0.1], "l2", attacks=())
    assert report.clean == model.score(X, y)
    radius = certified_radius(model.pipeline_, X, y, "l2")
    np.testing.assert_allclose(report["certified"], [(radius > e).mean() for e in (0.02, 0.1)])


def test_only_the_linear_head_has_a_decision_function() -> None:
    assert callable(SparsePCAClassifier().decision_function)
    with pytest.raises(AttributeError):
        SparsePCAClassifier(head="mlp").decision_function  # noqa: B018


def test_a_seed_repeats_the_network(digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits
    fits = [
        SparsePCAClassifier(5, head="mlp", n_epochs=2, random_state=seed).fit(X, y)
        for seed in (0, 0, 1)
    ]
    first, again, other = (fit.predict_proba(X) for fit in fits)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_it_pickles_and_is_searched(digits: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = digits
    grid = {"n_nonzero": [1, 8], "whiten": [False, True]}
    search = GridSearchCV(SparsePCAClassifier(5), grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_params_["n_nonzero"] == 8
    copied = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(copied.predict(X), search.predict(X))


def test_it_must_be_fitted_before_it_certifies() -> None:
    for call in ("certify", "robustness_report"):
        arguments = ([[0.0]], [0]) + (([0.1],) if call == "robustness_report" else ())
        with pytest.raises(NotFittedError):
            getattr(SparsePCAClassifier(), call)(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "forest"}, "`head` must be one of 'linear', 'mlp'; got 'forest'"),
        ({"C": 0.0}, "`C` must be a finite number"),
        ({"head": "mlp", "n_epochs": 0}, "`n_epochs` must be an int"),
        ({"head": "mlp", "batch_size": 0}, "`batch_size` must be an int"),
        ({"head": "mlp", "learning_rate": -1.0}, "`learning_rate` must be a finite number"),
        ({"alpha": 1.0, "n_nonzero": 2}, "Only one of `alpha`, `n_nonzero` and `penalty`"),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(settings: dict[str, Any], message: str) -> None:
    X = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match=message):
        SparsePCAClassifier(2, **settings).fit(X, X[:, 0] > 0)
