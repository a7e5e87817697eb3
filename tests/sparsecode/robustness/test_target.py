from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.svm import SVC
from torch import nn

from sparsecode.robustness import NotFoldableError
from sparsecode.robustness.target import EXACT_GRADIENTS, FINITE_DIFFERENCES, target_of

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, size=90)
X = 2 * RNG.normal(size=(3, 5))[Y] + RNG.normal(size=(90, 5))


def test_what_folds_has_exact_gradients_and_its_own_predictions() -> None:
    model = make_pipeline(PCA(4), LogisticRegression()).fit(X, np.array(["a", "b", "c"])[Y])
    target = target_of(model, (5,))
    assert target.gradients == EXACT_GRADIENTS
    assert (target.predict(X) == model.predict(X)).all()
    found = target.module(torch.from_numpy(X).float())
    np.testing.assert_allclose(found, model.decision_function(X), rtol=1e-4, atol=1e-4)


def test_data_frames_keep_their_names() -> None:
    frame = pd.DataFrame(X, columns=list("abcde"))
    for head in (LogisticRegression(), SVC()):  # without names, these warn, which is an error here
        model = make_pipeline(PCA(4), head).fit(frame, Y)
        target = target_of(model, (5,))
        assert (target.predict(X) == model.predict(frame)).all()
        assert target.module(torch.from_numpy(X).float()).shape == (90, 3)


def test_parts_in_a_list_predict_by_their_scores() -> None:
    pca = PCA(4).fit(X)
    head = nn.Linear(4, 3)
    target = target_of([pca, head], (5,))
    scores = head(torch.from_numpy(pca.transform(X)).float())
    assert (target.predict(X) == scores.argmax(1).numpy()).all()


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_other_modules_are_differentiated_as_they_are(n_outputs: int) -> None:
    class Squares(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.flatten(1) ** 2).sum(1, keepdim=True) - torch.arange(n_outputs) * 3 - 2

    target = target_of(Squares(), (1, 5))
    assert target.gradients == EXACT_GRADIENTS
    scores = (X**2).sum(1, keepdims=True) - np.arange(n_outputs) * 3 - 2
    expected = scores[:, 0] > 0 if n_outputs == 1 else scores.argmax(1)
    assert (target.predict(X) == expected).all()
    assert len(target.classes) == max(2, n_outputs)
    x = torch.from_numpy(X).float().requires_grad_(True)
    (gradient,) = torch.autograd.grad(target.module(x)[:, -1].sum(), x)
    torch.testing.assert_close(gradient, 2 * x.detach())


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(PolynomialFeatures(2), LogisticRegression(max_iter=9000)),
        SVC(),
        GaussianNB(),
    ],
    ids=["polynomial", "svc", "naive bayes"],
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_other_classifiers_are_differentiated_by_central_differences(
    model: Any, n_classes: int
) -> None:
    kept = n_classes > Y
    model.fit(X[kept], Y[kept])
    target = target_of(model, (5,), step=1e-3)
    assert target.gradients == FINITE_DIFFERENCES
    assert (target.predict(X) == model.predict(X)).all()
    x = torch.from_numpy(X[:7]).requires_grad_(True)
    scores = target.module(x)
    assert scores.shape == (7, n_classes)
    weights = torch.randn(7, n_classes, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((scores * weights).sum(), x)
    for row, feature in ((0, 0), (3, 4), (6, 2)):
        step = torch.zeros_like(x)
        step[row, feature] = 1e-5
        with torch.no_grad():
            rise = ((target.module(x + step) - target.module(x - step)) * weights).sum() / 2e-5
        assert float(gradient[row, feature]) == pytest.approx(float(rise), rel=1e-3, abs=1e-4)


def test_wide_inputs_are_differentiated_in_parts() -> None:
    class Squares(TransformerMixin, BaseEstimator):
        def fit(self, X: Any, y: Any = None) -> "Squares":
            return self

        def transform(self, X: Any) -> Any:
            return X**2

    X = RNG.normal(size=(24, 1500))
    model = make_pipeline(Squares(), LogisticRegression(max_iter=50)).fit(X, X[:, 0] > 0)
    target = target_of(model, (1500,))
    x = torch.from_numpy(X).requires_grad_(True)
    (gradient,) = torch.autograd.grad(target.module(x)[:, 1].sum(), x)
    np.testing.assert_allclose(gradient, 2 * X * model[-1].coef_, rtol=1e-5, atol=1e-8)


def test_labels_must_be_known() -> None:
    target = target_of(LogisticRegression().fit(X, Y), (5,))
    assert target.indices([2, 0]).tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"labels that the model knows.* got \['9'\]"):
        target.indices([2, 9])


def test_a_classifier_without_scores_is_refused() -> None:
    class Guess(BaseEstimator):
        classes_ = np.arange(2)

    with pytest.raises(NotImplementedError, match="must have decision_function or predict_proba"):
        target_of(Guess(), (5,))


def test_a_list_that_does_not_fold_is_refused() -> None:
    with pytest.raises(NotFoldableError, match="A list of parts must be foldable into layers"):
        target_of([PolynomialFeatures().fit(X), nn.Linear(21, 2)], (5,))


def test_nearest_centroids_have_scores() -> None:
    model = NearestCentroid().fit(X, Y)
    assert target_of(model, (5,)).module(torch.from_numpy(X)).shape == (90, 3)
