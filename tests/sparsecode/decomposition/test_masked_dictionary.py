import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode.decomposition import MaskedDictionaryLearning
from sparsecode.metrics import recovery_error

FAST: Any = {"max_epochs": 2}


def noisy_sparse_rows(
    n_rows: int, n_features: int, n_atoms: int, k: int, noise: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and dictionary: random supports, codes of norm 1, noise on every entry."""
    generator = torch.Generator().manual_seed(seed)
    dictionary = torch.randn(n_atoms, n_features, generator=generator)
    dictionary = torch.nn.functional.normalize(dictionary, dim=1)
    supports = torch.rand(n_rows, n_atoms, generator=generator).topk(k, dim=1).indices
    values = torch.nn.functional.normalize(torch.randn(n_rows, k, generator=generator), dim=1)
    z = torch.zeros(n_rows, n_atoms).scatter(1, supports, values)
    return z @ dictionary + noise * torch.randn(n_rows, n_features, generator=generator), dictionary


@pytest.fixture(name="X")
def x_() -> np.ndarray:
    return noisy_sparse_rows(60, 12, 12, 2, 0.01, 0)[0].double().numpy()


@parametrize_with_checks(
    [
        MaskedDictionaryLearning(**FAST),
        MaskedDictionaryLearning(3, n_nonzero=1, observed_share=0.5, batch_size=7, **FAST),
        MaskedDictionaryLearning(observed_share=1.0, sparse_output=True, **FAST),
    ]
)
def test_check_estimator(estimator: MaskedDictionaryLearning, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_dataframe_column_names_consistency",
    ],
)
@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")  # the checks' own doing
def test_checks_that_check_estimator_leaves_out(name: str) -> None:
    estimator = MaskedDictionaryLearning(**FAST)
    getattr(estimator_checks, name)("MaskedDictionaryLearning", estimator)


def test_missing_entries_are_imputed() -> None:
    X, dictionary = noisy_sparse_rows(300, 30, 30, 2, 0.0, 1)
    hidden = torch.rand(X.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    holes = X.masked_fill(hidden, torch.nan)
    model = MaskedDictionaryLearning(30, n_nonzero=2, init=dictionary, max_epochs=5).fit(holes)
    filled = model.inverse_transform(model.transform(holes))
    left = (filled - X)[hidden].square().sum() / X[hidden].square().sum()
    assert left < 0.15
    assert np.isfinite(model.components_).all()


def test_rows_without_any_entry_have_empty_codes(X: np.ndarray) -> None:
    X[3] = np.nan
    codes = MaskedDictionaryLearning(**FAST).fit(X).transform(X)
    assert (codes[3] == 0).all()


def test_hiding_nothing_is_plain_dictionary_learning(X: np.ndarray) -> None:
    settings: Any = {"n_components": 12, "n_nonzero": 2, "lr": 0.01}
    model = MaskedDictionaryLearning(observed_share=1.0, max_epochs=40, **settings).fit(X)
    assert model.error_[-1] < 0.5 * model.error_[0]
    assert model.n_iter_ == len(model.error_) == 40
    np.testing.assert_allclose(np.linalg.norm(model.components_, axis=1), 1, rtol=1e-6)


def test_masking_keeps_an_overcomplete_dictionary_from_fitting_noise() -> None:
    # Section C of the paper in small: begun at the truth plus noisy rows, twice as many atoms.
    rows, truth = noisy_sparse_rows(580, 40, 60, 3, 0.15, 0)
    X, init = rows[:400], torch.cat([truth, rows[400:]])
    errors = {}
    for share in (0.9, 1.0):
        model = MaskedDictionaryLearning(
            240, n_nonzero=3, observed_share=share, init=init, lr=0.003, max_epochs=60
        ).fit(X)
        errors[share] = recovery_error(torch.from_numpy(model.components_), truth)
    assert errors[0.9] < 0.75 * errors[1.0]


def test_runs_repeat_and_leave_the_global_state_alone(X: np.ndarray) -> None:
    before = torch.random.get_rng_state()
    first, second = (MaskedDictionaryLearning(**FAST).fit(X).components_ for _ in range(2))
    np.testing.assert_array_equal(first, second)
    other = MaskedDictionaryLearning(random_state=1, **FAST).fit(X).components_
    assert abs(first - other).max() > 0.1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_csr_tensors_and_pickles(X: np.ndarray) -> None:
    model = MaskedDictionaryLearning(**FAST).fit(X)
    codes = model.transform(X)
    assert torch.equal(model.transform(torch.from_numpy(X)), torch.from_numpy(codes))
    copied = pickle.loads(pickle.dumps(model)).set_params(sparse_output=True)
    np.testing.assert_array_equal(copied.transform(X).toarray(), codes)
    np.testing.assert_allclose(
        model.inverse_transform(copied.transform(X)), codes @ model.components_
    )


def test_what_is_refused(X: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"`observed_share` must be a finite number in \(0, 1\]"):
        MaskedDictionaryLearning(observed_share=0.0).fit(X)
    with pytest.raises(ValueError, match=r"`init` must have shape .*; got \(12, 11\)"):
        MaskedDictionaryLearning(init=X[:12, 1:]).fit(X)
    with pytest.raises(ValueError, match="infinity"):
        MaskedDictionaryLearning().fit(np.where(X > 0, np.inf, X))
    with pytest.raises(NotFittedError):
        MaskedDictionaryLearning().transform(X)
