"""SparsePCAClassifier on digits: predictions, certificates, reports, figures."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sparsecode.robustness import (
    SparsePCAClassifier,
    accuracy_figure,
    adversarial_sparsity,
    robustness_report,
)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    keep = y < 3
    return X[keep] / 16, y[keep]


@pytest.fixture(scope="module")
def model(digits):
    X, y = digits
    return SparsePCAClassifier(n_components=10, n_nonzero=8).fit(X[:300], y[:300])


def test_predicts_held_out_digits(model, digits):
    X, y = digits
    assert model.score(X[300:], y[300:]) > 0.95
    np.testing.assert_allclose(model.predict_proba(X[300:]).sum(1), 1.0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_certified_accuracy_falls_with_the_step(model, digits, norm):
    X, y = digits
    report = model.robustness_report(X[300:], y[300:], [0.01, 0.1, 1.0], norm, attacks=())
    curves = report.accuracy
    assert report.clean == pytest.approx(model.score(X[300:], y[300:]))
    assert np.all(np.diff(curves["certified"]) <= 0)
    assert np.all(curves["certified"] <= report.clean)


def test_an_attack_exists_in_no_direction_within_the_certificate(model, digits):
    X, y = digits[0][300:340], digits[1][300:340]
    radius = model.certify(X, y, norm="l2").accuracy
    assert radius(0.0) > 0.9
    small = adversarial_sparsity(model, X, y, 1e-4, n_directions=4)
    large = adversarial_sparsity(model, X, y, 10.0, n_directions=4)
    assert small.share(1.0) <= 1.0 - radius(1e-4) + 1e-9
    assert large.mean < small.mean


def test_figure_has_a_curve_for_each_classifier(model, digits):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib draws the figure")
    X, y = digits
    report = robustness_report(model, X[300:], y[300:], [0.01, 0.1], attacks=())
    figure, axes = pyplot.subplots()
    accuracy_figure({"a": report, "b": report}, ("certified",), ax=axes)
    assert len(axes.get_lines()) >= 2
    pyplot.close(figure)
