"""The matrix of a fitted transformer that is known to be affine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
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
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

from sparsecode.decomposition import SparsePCA

# Exact classes: a subclass may transform in another way.
KNOWN: frozenset[type] = frozenset(
    {
        FactorAnalysis,
        FastICA,
        GaussianRandomProjection,
        IncrementalPCA,
        LinearDiscriminantAnalysis,
        MaxAbsScaler,
        MiniBatchSparsePCA,
        MinMaxScaler,
        PCA,
        RobustScaler,
        SelectFromModel,
        SelectKBest,
        SelectPercentile,
        SklearnSparsePCA,
        SparsePCA,
        SparseRandomProjection,
        StandardScaler,
        TruncatedSVD,
        VarianceThreshold,
    }
)
# Larger than any offset by which features are shifted, so that taking differences costs no digits.
PROBE = 2.0**20


class NotFoldableError(NotImplementedError):
    """A part of a model is not known to be affine, nor a layer of a network."""


def affine_map(
    transformer: Any, n_features: int, *, affine: Sequence[type] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix and offset of a fitted transformer: ``transform(x) = matrix @ x + offset``.

    They are read off `transform` itself, at 0 and at multiples of the unit vectors, so that they
    hold whatever the transformer's parameters are.

    Parameters
    ----------
    transformer : fitted transformer, Pipeline or FeatureUnion of them, "passthrough" or None
        Scalers, PCA, SparsePCA and other linear decompositions, feature selection, random
        projections.
    n_features : int
        Width D of its input.
    affine : sequence of classes, default=()
        Further classes that are affine. Nothing can check that; a certificate is void if they are
        not.

    Returns
    -------
    matrix : ndarray of shape (n_outputs, n_features), float64
    offset : ndarray of shape (n_outputs,), float64

    Raises
    ------
    NotFoldableError
        If a transformer is not known to be affine.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> matrix, offset = affine_map(StandardScaler().fit([[0.0, 1.0], [4.0, 3.0]]), 2)
    >>> matrix.tolist(), offset.tolist()
    ([[0.5, 0.0], [0.0, 1.0]], [-1.0, -2.0])
    """
    check_affine(transformer, affine)
    if transformer is None or transformer == "passthrough":
        return np.eye(n_features), np.zeros(n_features)
    # Two rows of zeros: scikit-learn's SparsePCA returns a vector for a single row.
    probes = np.vstack([np.zeros((2, n_features)), PROBE * np.eye(n_features)])
    offset, _, *moved = _transformed(transformer, probes)
    return (np.array(moved) - offset).T / PROBE, offset


def check_affine(transformer: Any, affine: Sequence[type]) -> None:
    """Raise NotFoldableError unless the transformer, or all parts of it, are known to be affine."""
    if transformer is None or isinstance(transformer, str):
        if transformer not in (None, "passthrough"):
            raise NotFoldableError(f"A step of a pipeline must be fitted; got {transformer!r}.")
    elif type(transformer) in {Pipeline, FeatureUnion}:
        pipeline = type(transformer) is Pipeline
        for _, step in transformer.steps if pipeline else transformer.transformer_list:
            check_affine(step, affine)
    elif type(transformer) not in KNOWN and type(transformer) not in affine:
        known = ", ".join(sorted(cls.__name__ for cls in KNOWN))
        raise NotFoldableError(
            f"Transformers before the head must be affine; {type(transformer).__name__} is not "
            f"known to be. Known are {known}. If it is, pass its class in `affine`."
        )
    elif type(transformer) in {MinMaxScaler, MaxAbsScaler} and getattr(transformer, "clip", False):
        name = type(transformer).__name__
        raise NotFoldableError(f"`clip` of {name} must be False for an affine map; got True.")


def with_names(estimator: Any, X: np.ndarray) -> Any:
    """Return a data frame for an estimator that was fitted on one, which else warns."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or X.ndim != 2:
        return X
    import pandas as pd

    return pd.DataFrame(X, columns=names)


def _transformed(transformer: Any, X: np.ndarray) -> np.ndarray:
    Z = transformer.transform(with_names(transformer, X))
    return np.asarray(Z.toarray() if scipy.sparse.issparse(Z) else Z, dtype=np.float64)
