import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sae import SparseAutoencoder

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1200, 10))
Y = np.maximum(X @ RNG.standard_normal((10, 4)), 0)


def transcoder(**changes: Any) -> SparseAutoencoder:
    settings = {"k": 12, "max_steps": 300, "batch_size": 256, "device": "cpu"}
    return SparseAutoencoder(48, architecture="transcoder", **settings | changes)


@pytest.fixture(scope="module")
def fitted() -> SparseAutoencoder:
    return transcoder().fit(X, Y)


def test_a_transcoder_predicts_y(fitted: SparseAutoencoder) -> None:
    assert fitted.score(X, Y) > 0.99
    prediction = fitted.predict(X)
    share = 1 - ((prediction - Y) ** 2).sum() / ((Y - Y.mean(0)) ** 2).sum()
    assert share == pytest.approx(fitted.score(X, Y), abs=1e-5)
    assert fitted.n_features_in_ == 10
    assert fitted.components_.shape == (48, 4)
    codes = fitted.transform(X)
    assert codes.shape == (1200, 48)
    assert ((codes != 0).sum(1) <= 12).all()
    np.testing.assert_allclose(fitted.inverse_transform(codes), prediction, atol=1e-5)


def test_fit_and_partial_fit_agree_with_clones_and_pickles(fitted: SparseAutoencoder) -> None:
    again = clone(fitted).fit(X, Y)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).predict(X), again.predict(X))
    before = again.n_iter_
    assert again.partial_fit(X, Y).n_iter_ == before + 5
    assert again.score(X, Y) > 0.99


def test_tensors_and_targets_of_one_dimension() -> None:
    x, y = torch.tensor(X), torch.tensor(Y[:, 0])
    model = transcoder(max_steps=50, normalize="mean_square").fit(x, y)
    assert model.predict(x).shape == (1200, 1)
    assert model.predict(x).dtype == torch.float64
    same = transcoder(max_steps=50, normalize="mean_square").fit(X, Y[:, 0])
    np.testing.assert_allclose(same.predict(X), model.predict(x).numpy(), atol=1e-5)


def test_a_skip_connection_needs_the_rows() -> None:
    options = {"skip_connection": True, "aux_coefficient": 0.0}
    linear = X @ RNG.standard_normal((10, 3)) + 2
    model = transcoder(architecture_options=options, k=1, lr=0.03).fit(X, linear)
    assert model.score(X, linear) > 0.98
    with pytest.raises(TypeError, match=r"`inverse_transform`.*skip connection.*Use predict"):
        model.inverse_transform(model.transform(X))


def test_targets_must_fit(fitted: SparseAutoencoder) -> None:
    with pytest.raises(ValueError, match=r"`y` must hold what a transcoder predicts.*got None"):
        transcoder().fit(X)
    with pytest.raises(ValueError, match=r"`y` must have shape.*\(1200, 4\); got \(7, 4\)"):
        transcoder().fit(X, Y[:7])
    with pytest.raises(ValueError, match=r"\(1200, 4\); got \(1200, 1\)"):
        fitted.score(X, Y[:, 0])
    with pytest.raises(ValueError, match=r"Input y contains NaN"):
        transcoder().fit(X, np.where(Y > 1, np.nan, Y))
    with pytest.raises(ValueError, match=r"`y` must have entries of at most"):
        transcoder().fit(X, Y * 1e20)


def test_others_ignore_y_and_have_no_predict() -> None:
    model = SparseAutoencoder(16, k=2, max_steps=3, device="cpu")
    assert not hasattr(model, "predict")
    with pytest.raises(AttributeError, match="predict"):
        model.predict(X)
    np.testing.assert_array_equal(model.fit(X, Y).transform(X), clone(model).fit(X).transform(X))
