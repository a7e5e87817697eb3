import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import sae
from sae import SparseAutoencoder
from sparsecode import metrics
from sparsecode.datasets import make_sparse_data
from sparsecode.testing import max_new_bytes

ARCHITECTURES = sorted(set(sae.AUTOENCODERS) - {"transcoder"})  # which has a target beside `X`
FIXED_K = {
    "topk",
    "k_sparse",
    "hierarchical_topk",
    "multi_topk",
}  # the others choose how many of a row fire


def small(**changes: Any) -> SparseAutoencoder:
    settings = {"n_components": 12, "k": 3, "max_steps": 4, "batch_size": 32, "device": "cpu"}
    return SparseAutoencoder(**settings | changes)


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    x, dictionary, _ = make_sparse_data(1500, 16, 32, k=3, noise=0.01)
    return x.numpy(), dictionary.numpy()


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((50, 6))


# scikit-learn's contract


@parametrize_with_checks(
    [
        small(architecture=architecture, sparse_output=sparse_output, max_steps=3)
        for architecture in ARCHITECTURES
        for sparse_output in {False, architecture in ("topk", "relu")}  # fixed and ragged rows
    ]
)
def test_check_estimator(estimator: SparseAutoencoder, check: Any) -> None:
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
        "check_n_features_in_after_fitting",
    ],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:X .* feature names")  # the checks' own doing
def test_further_checks_of_scikit_learn(name: str, architecture: str) -> None:
    estimator = small(architecture=architecture)
    getattr(estimator_checks, name)(type(estimator).__name__, estimator)


def test_default_settings_pass_the_checks_that_shrink_the_estimator() -> None:
    # They set n_components to 1 and leave k, here 32, as it is.
    estimator = SparseAutoencoder(max_steps=1)
    estimator_checks.check_methods_subset_invariance("SparseAutoencoder", estimator)
    estimator_checks.check_fit2d_1sample("SparseAutoencoder", estimator)


def test_clone_forgets_what_was_learned(x: np.ndarray) -> None:
    fitted = small(architecture_options={"aux_coefficient": 0.5}).fit(x)
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copied.transform(x)


def test_grid_search_in_a_pipeline_finds_k(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = planted
    pipeline = make_pipeline(
        StandardScaler(),
        SparseAutoencoder(32, k=1, max_steps=40, lr=0.03, batch_size=256, device="cpu"),
    )
    search = GridSearchCV(pipeline, {"sparseautoencoder__k": [1, 4]}, cv=2).fit(x[:600])
    assert search.best_params_ == {"sparseautoencoder__k": 4}
    assert 0 < search.best_score_ < 1
    assert search.transform(x[:5]).shape == (5, 32)


def test_output_names_and_pandas(x: np.ndarray) -> None:
    frame = pd.DataFrame(x, columns=list("abcdef"))
    estimator = small().set_output(transform="pandas")
    codes = estimator.fit_transform(frame)
    assert list(codes.columns) == [f"sparseautoencoder{number}" for number in range(12)]
    assert list(estimator.feature_names_in_) == list("abcdef")
    assert np.array_equal(codes.to_numpy(), small().fit_transform(x))
    np.testing.assert_allclose(
        estimator.inverse_transform(codes), small().fit(x).inverse_transform(codes.to_numpy())
    )


def test_pandas_output_of_sparse_codes_is_refused(x: np.ndarray) -> None:
    estimator = small(sparse_output=True).fit(x).set_output(transform="pandas")
    with pytest.raises(ValueError, match="outputs a scipy sparse matrix"):
        estimator.transform(x)


# Codes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_of_a_row_do_not_depend_on_the_batch(architecture: str, dtype: type) -> None:
    x = np.random.default_rng(1).standard_normal((70, 37)).astype(dtype)
    estimator = small(n_components=200, k=5, architecture=architecture).fit(x)
    whole = estimator.transform(x)
    alone = np.concatenate([estimator.transform(row[None]) for row in x])
    order = np.random.default_rng(2).permutation(70)
    assert whole.dtype == dtype
    if architecture in FIXED_K:
        assert (np.count_nonzero(whole, axis=1) <= 5).all()
    np.testing.assert_array_equal(alone != 0, whole != 0)
    np.testing.assert_allclose(alone, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(estimator.transform(x[order]), whole[order], rtol=1e-5, atol=1e-6)


def test_many_rows_are_encoded_in_runs() -> None:
    # 20,000 x 1,024 entries are more than are held at a time.
    x = np.random.default_rng(0).standard_normal((20_000, 3)).astype(np.float32)
    estimator = small(n_components=1024, k=2, max_steps=1, sparse_output=True).fit(x)
    codes = estimator.transform(x)
    halves = scipy.sparse.vstack([estimator.transform(x[:777]), estimator.transform(x[777:])])
    assert np.array_equal(codes.indptr, halves.tocsr().indptr)
    np.testing.assert_allclose(codes.data, halves.tocsr().data, rtol=1e-4, atol=1e-6)
    dense = estimator.set_params(sparse_output=False).transform(x)
    assert np.array_equal(dense, codes.toarray())
    np.testing.assert_allclose(
        estimator.inverse_transform(dense), estimator.inverse_transform(codes), rtol=1e-5, atol=1e-6
    )


def test_sparse_output_never_makes_the_dense_codes() -> None:
    n_rows, width = 1000, 100_000
    x = np.random.default_rng(0).standard_normal((n_rows, 4)).astype(np.float32)
    estimator = small(n_components=width, max_steps=1, sparse_output=True).fit(x[:64])
    assert max_new_bytes(lambda: estimator.transform(x)) < 0.15 * n_rows * width * 4


def test_reconstruction_is_affine_in_the_codes(x: np.ndarray) -> None:
    estimator = small(max_steps=20).fit(x)
    codes = estimator.transform(x)
    expected = codes @ estimator.components_ + estimator.module_.b_dec.detach().numpy()
    assert estimator.components_.shape == (12, 6)
    np.testing.assert_allclose(estimator.inverse_transform(codes), expected, rtol=1e-5, atol=1e-6)
    for layout in (scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array):
        found = estimator.inverse_transform(layout(codes))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert estimator.score(x) == pytest.approx(metrics.explained_variance(x, expected), abs=1e-5)


def test_components_are_a_copy(x: np.ndarray) -> None:
    estimator = small().fit(x)
    before = estimator.components_
    before[:] = 0
    assert np.abs(estimator.components_).max() > 0


# Kinds of input


@pytest.mark.parametrize(
    "layout", [scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array]
)
def test_sparse_input_equals_dense_input(x: np.ndarray, layout: Any) -> None:
    x[x < 0] = 0
    dense, sparse = small().fit(x), small().fit(layout(x))
    assert np.array_equal(dense.components_, sparse.components_)
    assert np.array_equal(dense.transform(x), sparse.transform(layout(x)))
    assert dense.score(x) == sparse.score(layout(x))
    dense.partial_fit(x)
    assert np.array_equal(dense.components_, sparse.partial_fit(layout(x)).components_)


def test_a_sparse_matrix_of_zeros_works() -> None:
    zeros = scipy.sparse.csr_matrix((5, 4))
    assert not small().fit_transform(zeros).any()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64]
)
def test_tensor_in_tensor_out(x: np.ndarray, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(x * 4).to(dtype)
    kept = dtype if dtype.is_floating_point else torch.float32
    estimator = small().fit(tensor)
    codes = estimator.transform(tensor)
    assert (codes.dtype, codes.shape) == (kept, (50, 12))
    recon = estimator.inverse_transform(codes)
    assert (recon.dtype, recon.shape) == (kept, (50, 6))
    array = tensor.to(torch.float64).numpy()
    if dtype in (torch.float32, torch.float64):
        same = small().fit(tensor.numpy())
        assert np.array_equal(codes.numpy(), same.transform(tensor.numpy()))
    else:
        other = estimator.transform(array)
        np.testing.assert_allclose(codes.double().numpy(), other, rtol=1e-2, atol=1e-2)
    assert estimator.score(tensor) == pytest.approx(estimator.score(array), abs=1e-3)


def test_tensors_with_gradients_and_sparse_output(x: np.ndarray) -> None:
    tensor = torch.from_numpy(x).requires_grad_()
    estimator = small(sparse_output=True).fit(tensor).partial_fit(tensor)
    assert isinstance(estimator.transform(tensor), scipy.sparse.csr_matrix)
    assert not torch.is_tensor(estimator.transform(x))
    assert tensor.grad is None


def test_the_order_in_memory_does_not_matter(x: np.ndarray) -> None:
    by_column = np.asfortranarray(x)
    estimator = small().fit(x)
    assert np.array_equal(small().fit(by_column).components_, estimator.components_)
    assert np.array_equal(estimator.transform(by_column), estimator.transform(x))
    turned = torch.from_numpy(np.ascontiguousarray(x.T)).T
    assert np.array_equal(estimator.transform(turned).numpy(), estimator.transform(x))


def test_read_only_memory_maps(x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    mine, theirs = small().fit(mapped), small().fit(x)
    assert np.array_equal(mine.transform(mapped), theirs.transform(x))
    assert np.array_equal(mine.partial_fit(mapped).components_, theirs.partial_fit(x).components_)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "data",
    [np.ones((1, 5)), np.full((9, 3), 7.0), np.zeros((4, 2)), np.arange(10.0)[:, None]],
    ids=["one sample", "constant", "zeros", "one feature"],
)
def test_degenerate_data_give_finite_results(architecture: str, data: np.ndarray) -> None:
    estimator = small(architecture=architecture).fit(data).partial_fit(data)
    codes = estimator.transform(data)
    assert np.isfinite(codes).all()
    if architecture == "bilinear":  # it reconstructs no rows
        return
    recon = estimator.inverse_transform(codes)
    assert np.isfinite(recon).all()
    if (data == data[0]).all():
        np.testing.assert_allclose(recon, data, atol=0.05)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_of_the_data_does_not_matter(x: np.ndarray, scale: float) -> None:
    assert small().fit(x * scale).score(x * scale) == pytest.approx(
        small().fit(x).score(x), abs=1e-3
    )


def test_a_planted_dictionary_is_recovered(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, dictionary = planted
    estimator = SparseAutoencoder(32, k=3, max_steps=300, batch_size=256, lr=0.02, device="cpu")
    estimator.fit(x)
    cosines = (estimator.components_ @ dictionary.T).max(0)
    assert (cosines > 0.9).mean() >= 0.85
    assert estimator.score(x) > 0.85


def test_options_reach_the_architecture(x: np.ndarray) -> None:
    estimator = small(architecture="k_sparse", architecture_options={"alpha": 2.0}).fit(x)
    assert estimator.module_.config()["alpha"] == 2.0
    assert (np.count_nonzero(estimator.transform(x), axis=1) == 6).all()


def test_the_module_can_be_saved(x: np.ndarray, tmp_path: Path) -> None:
    estimator = small().fit(x)
    loaded = sae.load(sae.save(estimator.module_, tmp_path / "model"))
    rows = torch.from_numpy(x)
    assert loaded.encode(rows) == estimator.module_.encode(rows)


def test_equal_seeds_give_equal_results_whatever_the_global_state(x: np.ndarray) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = small(random_state=3).fit(x).partial_fit(x)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    torch.manual_seed(2)
    again = small(random_state=3).fit(x).partial_fit(x)
    assert np.array_equal(first.components_, again.components_)
    other = small(random_state=4).fit(x)
    assert not np.array_equal(first.components_, other.components_)


def test_random_state_instances_advance(x: np.ndarray) -> None:
    state = np.random.RandomState(0)
    estimator = small(random_state=state)
    first, second = estimator.fit(x).components_, estimator.fit(x).components_
    assert not np.array_equal(first, second)
    assert estimator.random_state is state
    again = small(random_state=np.random.RandomState(0)).fit(x)
    assert np.array_equal(again.components_, first)
    assert small(random_state=None).fit(x).n_iter_ == 4


def test_fit_starts_anew(x: np.ndarray) -> None:
    once, twice = small().fit(x), small().fit(2 * x + 1).fit(x)
    assert np.array_equal(once.components_, twice.components_)
    assert np.array_equal(small().partial_fit(x).fit(x).components_, once.components_)
    assert once.n_iter_ == twice.n_iter_ == 4


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_partial_fit_on_all_rows_equals_fit(x: np.ndarray, architecture: str) -> None:
    # With one batch of all rows, only their order differs.
    settings = {"architecture": architecture, "batch_size": 50, "max_steps": 20}
    whole, steps = small(**settings).fit(x), small(**settings)
    for _ in range(20):
        steps.partial_fit(x)
    assert steps.n_iter_ == whole.n_iter_ == 20
    for ours, theirs in zip(steps.module_.parameters(), whole.module_.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_partial_fit_on_batches_approximates_fit(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = planted
    settings = {"n_components": 32, "batch_size": 300, "max_steps": 100, "lr": 0.02}
    whole, streamed = small(**settings).fit(x), small(**settings)
    for _ in range(20):
        for batch in np.split(x, 5):
            streamed.partial_fit(batch)
    assert streamed.n_iter_ == 100
    assert streamed.score(x) == pytest.approx(whole.score(x), abs=0.03)


def test_partial_fit_takes_a_step_for_each_batch(x: np.ndarray) -> None:
    assert small(batch_size=16).partial_fit(x).n_iter_ == 4
    assert small(batch_size=100).partial_fit(x).n_iter_ == 1
    continued = small().fit(x)
    before = continued.components_
    continued.partial_fit(x)
    assert continued.n_iter_ == 6
    assert 0 < np.abs(continued.components_ - before).max() < 0.1


def test_partial_fit_keeps_the_number_of_features(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="5 features, but SparseAutoencoder is expecting 6"):
        small().partial_fit(x).partial_fit(x[:, :5])


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("how", ["fit", "partial_fit"])
def test_copies_and_pickles_continue_identically(x: np.ndarray, how: str, twin_of: Any) -> None:
    estimator = getattr(small(architecture_options={"aux_coefficient": 0.1}), how)(x)
    twin = twin_of(estimator)
    codes = estimator.transform(x)
    assert np.array_equal(twin.transform(x), codes)
    assert np.array_equal(twin.components_, estimator.components_)
    for _ in range(3):
        estimator.partial_fit(x)
    assert np.array_equal(twin.transform(x), codes), "a copy must not share memory"
    for _ in range(3):
        twin.partial_fit(x)
    assert np.array_equal(twin.components_, estimator.components_)
    assert np.array_equal(twin.transform(x), estimator.transform(x))


@pytest.mark.parametrize("verbose", [False, True])
def test_progress_is_shown_on_request_only(
    x: np.ndarray, verbose: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    small(verbose=verbose).fit(x).partial_fit(x).transform(x)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("4/4" in err) == verbose


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_a_gpu_learned_is_pickled_for_the_cpu(x: np.ndarray) -> None:
    estimator = small(device="cuda").fit(x)
    twin = pickle.loads(pickle.dumps(estimator)).set_params(device="cpu")
    assert twin.module_.b_dec.device.type == "cpu"
    np.testing.assert_allclose(twin.transform(x), estimator.transform(x), rtol=1e-3, atol=1e-4)
    twin.partial_fit(x)
    estimator.partial_fit(x)
    np.testing.assert_allclose(twin.components_, estimator.components_, rtol=1e-3, atol=1e-4)
    assert estimator.transform(torch.from_numpy(x).cuda()).is_cuda


# Refusals


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_components": 0}, ValueError, r"`n_components` must be an int in \[1, inf\); got 0"),
        ({"n_components": 2.0}, TypeError, "`n_components` must be an int"),
        (
            {"k": 13},
            ValueError,
            r"`k` must be .* in \[1, n_components\]; got 13 with n_components=12",
        ),
        ({"k": 0}, ValueError, "`k` must be an int"),
        ({"max_steps": 0}, ValueError, "`max_steps` must be an int"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an int"),
        ({"lr": -1.0}, ValueError, "`lr` must be a finite number"),
        ({"architecture": "topkk"}, ValueError, "one of .*'topk'.*; got 'topkk'.*'topk'"),
        ({"architecture_options": {"preb": 1}}, ValueError, "got 'preb'. Did you mean 'pre_bias'"),
        (
            {"architecture_options": {"k": 1}},
            ValueError,
            "`architecture_options` of 'topk' must be",
        ),
        ({"architecture_options": [1]}, TypeError, "must be a dict or None; got list"),
        ({"device": "gpu"}, ValueError, "`device` must be \"auto\" or a torch device; got 'gpu'"),
        ({"device": 1.5}, ValueError, '`device` must be "auto" or a torch device; got 1.5'),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["fit", "partial_fit"])
def test_bad_parameters_are_refused(
    x: np.ndarray, changes: dict[str, Any], error: type[Exception], message: str, how: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(small(**changes), how)(x)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="torch sees no GPU here"):
        small(device="cuda").fit(x)


def test_one_component_leaves_nothing_to_select(x: np.ndarray) -> None:
    assert small(n_components=1, k=32).fit_transform(x).shape == (50, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "method", ["fit", "partial_fit", "transform", "score", "inverse_transform"]
)
def test_values_that_are_not_finite_are_refused(x: np.ndarray, method: str, value: float) -> None:
    estimator = small().fit(x)
    bad = np.ones((4, 12 if method == "inverse_transform" else 6))
    bad[2, 3] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        getattr(estimator, method)(bad)
    with pytest.raises(ValueError, match="`X` must be finite; got NaN or infinity; first in row 2"):
        getattr(estimator, method)(torch.from_numpy(bad))


def test_values_beyond_single_precision_are_refused(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"at most 1e\+15 in size.*Rescale the data"):
        small().fit(x * 1e200)
    with pytest.raises(ValueError, match="Rescale the data"):
        small().fit(x).transform(scipy.sparse.csr_matrix(x * -1e200))


@pytest.mark.parametrize(
    "bad", [torch.ones(6), torch.ones(0, 6), torch.ones(2, 6, dtype=torch.complex64)], ids=str
)
def test_tensors_of_the_wrong_kind_are_refused(x: np.ndarray, bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="`X` must be a real tensor of shape"):
        small().fit(x).transform(bad)


def test_the_wrong_width_is_refused(x: np.ndarray) -> None:
    estimator = small().fit(x)
    for kind in (np.asarray, torch.from_numpy, scipy.sparse.csr_matrix):
        with pytest.raises(ValueError, match="5 features, but SparseAutoencoder is expecting 6"):
            estimator.transform(kind(x[:, :5]))
        with pytest.raises(ValueError, match=r"n_components\) = \(any, 12\); got \(50, 6\)"):
            estimator.inverse_transform(kind(x))


@pytest.mark.parametrize("method", ["transform", "inverse_transform", "score"])
def test_fit_comes_first(x: np.ndarray, method: str) -> None:
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(small(), method)(x)
