from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import (
    PCA,
    FactorAnalysis,
    FastICA,
    IncrementalPCA,
    MiniBatchSparsePCA,
    TruncatedSVD,
)
from sklearn.decomposition import SparsePCA as SklearnSparsePCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import (
    SelectFromModel,
    SelectKBest,
    SelectPercentile,
    VarianceThreshold,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from sparsecode.decomposition import SparsePCA
from sparsecode.robustness import NotFoldableError, affine_map
from sparsecode.robustness.affine import KNOWN

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 7)) * np.array([1, 10, 100, 0.1, 1, 1, 1]) + 1000
Y = (X[:, 0] > 1000).astype(int) + (X[:, 1] > 1000)

TRANSFORMERS = [
    FactorAnalysis(3),
    FastICA(3, random_state=0),
    GaussianRandomProjection(3, random_state=0),
    IncrementalPCA(3, whiten=True),
    LinearDiscriminantAnalysis(),
    MaxAbsScaler(),
    MiniBatchSparsePCA(3, random_state=0),
    MinMaxScaler((-1, 2)),
    PCA(3),
    PCA(3, whiten=True),
    RobustScaler(),
    SelectFromModel(LogisticRegression(max_iter=10_000)),
    SelectKBest(k=2),
    SelectPercentile(percentile=50),
    SklearnSparsePCA(3, random_state=0),
    SparsePCA(3, n_nonzero=2),
    SparsePCA(3, transform_algorithm="ridge", whiten=True),
    SparseRandomProjection(3, random_state=0),
    StandardScaler(),
    StandardScaler(with_mean=False),
    TruncatedSVD(3, random_state=0),
    VarianceThreshold(0.5),
    make_pipeline(StandardScaler(), PCA(4), "passthrough", MinMaxScaler()),
    FeatureUnion([("pca", PCA(2)), ("all", StandardScaler())]),
]


class Doubler(TransformerMixin, BaseEstimator):
    """A user's own linear transformer."""

    def fit(self, X: Any, y: Any = None) -> "Doubler":
        return self

    def transform(self, X: Any) -> np.ndarray:
        return 2 * np.asarray(X)


class ClippedScaler(StandardScaler):
    """A subclass that is no longer affine."""

    def transform(self, X: Any, copy: Any = None) -> np.ndarray:
        return super().transform(X).clip(-1, 1)


@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=lambda t: repr(t).split("(")[0])
@pytest.mark.filterwarnings("ignore:The number of components")
def test_the_map_is_what_transform_does(transformer: Any) -> None:
    transformer.fit(X, Y)
    matrix, offset = affine_map(transformer, 7)
    other = RNG.normal(size=(20, 7)) * 50 + 900
    np.testing.assert_allclose(
        other @ matrix.T + offset, transformer.transform(other), rtol=1e-8, atol=1e-8
    )


def test_all_known_classes_are_checked_above() -> None:
    assert {type(transformer) for transformer in TRANSFORMERS} >= KNOWN


def test_nothing_is_the_identity() -> None:
    for transformer in (None, "passthrough"):
        matrix, offset = affine_map(transformer, 3)
        assert matrix.tolist() == np.eye(3).tolist()
        assert offset.tolist() == [0, 0, 0]


def test_transformers_fitted_on_data_frames_do_not_warn() -> None:
    frame = pd.DataFrame(X, columns=list("abcdefg"))
    pipeline = make_pipeline(StandardScaler(), PCA(2)).set_output(transform="pandas").fit(frame)
    matrix, offset = affine_map(pipeline, 7)
    np.testing.assert_allclose(X @ matrix.T + offset, pipeline.transform(frame), atol=1e-8)


@pytest.mark.parametrize(
    "transformer",
    [
        PolynomialFeatures().fit(X),
        Doubler().fit(X),
        ClippedScaler().fit(X),
        make_pipeline(StandardScaler(), Doubler()).fit(X),
        FeatureUnion([("doubler", Doubler())]).fit(X),
    ],
    ids=lambda t: type(t).__name__,
)
def test_what_is_not_known_to_be_affine_is_refused(transformer: Any) -> None:
    with pytest.raises(NotFoldableError, match=r"is not known to be\. Known are FactorAnalysis, "):
        affine_map(transformer, 7)


@pytest.mark.parametrize("scaler", [MinMaxScaler(clip=True), MaxAbsScaler(clip=True)], ids=repr)
def test_clipping_is_refused(scaler: Any) -> None:
    with pytest.raises(NotFoldableError, match=r"`clip` of M.*Scaler must be False .* got True"):
        affine_map(scaler.fit(X), 7)


def test_users_can_vouch_for_their_own_class() -> None:
    matrix, offset = affine_map(Doubler(), 3, affine=(Doubler,))
    assert matrix.tolist() == (2 * np.eye(3)).tolist()
    assert not offset.any()


def test_a_step_that_is_a_name_is_refused() -> None:
    with pytest.raises(NotFoldableError, match="A step of a pipeline must be fitted; got 'drop'"):
        affine_map("drop", 3)
