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
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from retrieval import AbstractEncoder, ContrastiveSparseEncoder
from sparsecode.datasets import make_sparse_data


def small(**changes: Any) -> ContrastiveSparseEncoder:
    settings = {"n_components": 24, "k": 3, "max_steps": 6, "batch_size": 32, "device": "cpu"}
    return ContrastiveSparseEncoder(**settings | changes)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def planted() -> np.ndarray:
    x, _, _ = make_sparse_data(1500, 16, 32, k=3, noise=0.01)
    return x.numpy()


# scikit-learn's contract


@parametrize_with_checks([small(max_steps=2, n_components=12)])
def test_check_estimator(estimator: ContrastiveSparseEncoder, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_dataframe_column_names_consistency",
        "check_n_features_in_after_fitting",
    ],
)
@pytest.mark.filterwarnings("ignore:X .* feature names")  # the checks' own doing
def test_further_checks_of_scikit_learn(name: str) -> None:
    getattr(estimator_checks, name)("ContrastiveSparseEncoder", small())


def test_clone_forgets_what_was_learned(x: np.ndarray) -> None:
    copied = clone(small(gamma=0.5).fit(x))
    assert copied.gamma == 0.5
    with pytest.raises(NotFittedError):
        copied.transform(x)


def test_names_of_features_and_latents(x: np.ndarray) -> None:
    encoder = small().fit(pd.DataFrame(x, columns=list("abcdef")))
    assert list(encoder.feature_names_in_) == list("abcdef")
    assert encoder.get_feature_names_out()[3] == "contrastivesparseencoder3"
    assert isinstance(encoder, AbstractEncoder)
    assert encoder.n_dimensions == 24


# Codes


def test_codes_are_canonical_and_of_unit_length(x: np.ndarray) -> None:
    codes = small().fit(x).transform(x)
    assert isinstance(codes, scipy.sparse.csr_matrix)
    assert (codes.dtype, codes.indices.dtype, codes.shape) == (np.float32, np.int32, (50, 24))
    assert codes.has_canonical_format
    assert (codes.data > 0).all()
    assert (codes.getnnz(axis=1) <= 3).all()
    norms = np.sqrt(codes.multiply(codes).sum(1))
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


def test_one_fit_serves_every_k(x: np.ndarray) -> None:
    encoder = small(normalize=False).fit(x)
    whole = encoder.transform(x, k=24).toarray()
    for k in (1, 2, 7):
        dense = encoder.transform(x, k=k).toarray()
        kept = np.sort(whole, axis=1)[:, ::-1][:, :k]
        np.testing.assert_allclose(np.sort(dense, 1)[:, ::-1][:, :k], kept, rtol=1e-6)
        assert ((dense == 0) | (dense == whole)).all()
    for wrong in (0, 25):
        with pytest.raises(ValueError, match=r"`k` must be an int in \[1, n_components\]; got"):
            encoder.transform(x, k=wrong)


def test_codes_by_the_formula(x: np.ndarray) -> None:
    encoder = small(normalize=False).fit(x)
    module = encoder.module_
    bias, latent = module.b_pre.detach().numpy(), module.b_latent.detach().numpy()
    z = np.maximum((x - bias) @ encoder.components_.T + latent, 0)
    z[z < np.sort(z, axis=1)[:, -3:-2]] = 0
    np.testing.assert_allclose(encoder.transform(x).toarray(), z, atol=1e-5)
    np.testing.assert_allclose(
        encoder.inverse_transform(encoder.transform(x)), z @ encoder.components_ + bias, atol=1e-5
    )


def test_queries_and_documents_are_normalized_whatever_the_setting(x: np.ndarray) -> None:
    raw, unit = small(normalize=False).fit(x), small().fit(x)
    for method in (raw.encode_documents, raw.encode_queries, unit.encode_queries):
        assert abs(method(x, k=2) - unit.transform(x, k=2)).max() < 1e-6


def test_normalized_codes_are_given_their_mean_length_back(planted: np.ndarray) -> None:
    encoder = small(n_components=64, max_steps=120, gamma=0.0, batch_size=256).fit(planted)
    variance = np.square(planted - planted.mean(0)).sum()
    unit = np.square(planted - encoder.inverse_transform(encoder.transform(planted))).sum()
    encoder.normalize = False
    raw = np.square(planted - encoder.inverse_transform(encoder.transform(planted))).sum()
    assert raw / variance < 0.25
    assert raw < unit < variance
    lengths = np.sqrt(encoder.transform(planted).power(2).sum(1))
    assert encoder.code_norms_[2] == pytest.approx(lengths.mean(), rel=1e-4)


def test_a_single_row_is_encoded_as_in_a_batch(planted: np.ndarray) -> None:
    encoder = small(n_components=200, k=5).fit(planted)
    whole = encoder.transform(planted[:20])
    alone = scipy.sparse.vstack([encoder.transform(row[None]) for row in planted[:20]])
    assert np.array_equal(whole.indices, alone.indices)
    np.testing.assert_allclose(whole.data, alone.data, rtol=1e-5)


def test_width_follows_the_features(x: np.ndarray) -> None:
    assert small(n_components=None).fit(x).transform(x).shape == (50, 24)
    assert small(n_components=None, k=2).fit(x[:, :5]).n_dimensions == 20


# Training


def test_k_falls_linearly_and_stays(x: np.ndarray) -> None:
    encoder = small(k=2, k_start=6, max_steps=10).fit(x)
    _, settings = encoder._run
    found = [settings.k_at(step / 10, 24) for step in range(10)]
    assert found == [round(6 + (2 - 6) * min(1.0, step / 7)) for step in range(10)]
    assert settings.k_at(0.0, 16) == 4, "four times k must fit into the latents"
    assert small(k=9, k_start=2).fit(x)._run[1].k_at(0.0, 24) == 9


def test_labels_pull_rows_together() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(600) % 3)
    x = rng.normal(size=(600, 12)).astype(np.float32)
    x[:, :3] += 1.5 * np.eye(3)[y]

    def separation(encoder: ContrastiveSparseEncoder) -> float:
        codes = encoder.transform(x).toarray()
        cosines, same = codes @ codes.T, y[:, None] == y
        return float(cosines[same].mean() - cosines[~same].mean())

    settings = {"n_components": 48, "k": 4, "max_steps": 60, "batch_size": 128, "gamma": 1.0}
    blind, seeing = small(**settings).fit(x), small(**settings).fit(x, np.array(list("abc"))[y])
    assert separation(seeing) > separation(blind) + 0.03


def test_pairs_pull_queries_to_their_documents() -> None:
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(600, 12)).astype(np.float32)
    queries = documents + rng.normal(size=(600, 12)).astype(np.float32)

    def found_first(encoder: ContrastiveSparseEncoder) -> float:
        scores = (encoder.transform(queries) @ encoder.transform(documents).T).toarray()
        return float((scores.argmax(1) == np.arange(600)).mean())

    settings = {"n_components": 96, "k": 8, "max_steps": 40, "batch_size": 128, "gamma": 1.0}
    alone = small(**settings | {"gamma": 0.0}).fit_pairs(queries, documents)
    paired = small(**settings).fit_pairs(queries, documents)
    assert found_first(paired) > found_first(alone)
    with pytest.raises(ValueError, match="a row for each pair; got 600 and 5 rows"):
        small().fit_pairs(queries, documents[:5])


def test_contrast_spreads_codes(planted: np.ndarray) -> None:
    def mean_cosine(gamma: float) -> float:
        settings = {"n_components": 64, "max_steps": 30, "batch_size": 128, "gamma": gamma}
        codes = small(**settings).fit(planted + 1.0).transform(planted + 1.0)
        return float((codes @ codes.T).mean())

    assert mean_cosine(1.0) < mean_cosine(0.0)


def test_equal_seeds_give_equal_results_whatever_the_global_state(x: np.ndarray) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small(random_state=3).fit(x).partial_fit(x)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again = small(random_state=3).fit(x).partial_fit(x)
    assert np.array_equal(first.components_, again.components_)
    other = small(random_state=4).fit(x)
    assert not np.array_equal(first.components_, other.components_)


def test_partial_fit_goes_on_and_fit_starts_anew(x: np.ndarray) -> None:
    once = small().fit(x)
    n_iter, before = once.n_iter_, once.components_
    assert once.partial_fit(x).n_iter_ == n_iter + 2
    assert not np.array_equal(once.components_, before)
    assert np.array_equal(once.fit(x).components_, before)
    parts = small(k_start=None, max_steps=8)
    for _ in range(4):
        parts.partial_fit(x)
    assert parts.n_iter_ == 8
    labelled = small().partial_fit(x, np.arange(50) % 2).partial_fit(x)
    assert labelled.n_iter_ == 4


def test_partial_fit_on_a_pickled_copy_equals_that_on_the_original(x: np.ndarray) -> None:
    first = small().fit(x)
    second, third = pickle.loads(pickle.dumps(first)), copy.deepcopy(first)
    expected = first.partial_fit(x).components_
    assert np.array_equal(second.partial_fit(x).components_, expected)
    assert np.array_equal(third.partial_fit(x).components_, expected)


# Kinds of input


def test_embeddings_on_disk(x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = small().fit(x)
    for data in (mapped, tmp_path / "x.npy", str(tmp_path / "x.npy"), torch.from_numpy(x)):
        encoder = small().fit(data)
        assert np.array_equal(encoder.components_, expected.components_)
        assert abs(encoder.transform(data) - expected.transform(x)).max() == 0
    np.save(tmp_path / "half.npy", x.astype(np.float16))
    half = small().fit(tmp_path / "half.npy").partial_fit(tmp_path / "half.npy")
    assert half.transform(tmp_path / "half.npy").shape == (50, 24)
    with pytest.raises(ValueError, match=r"path of an existing \.npy file; got 'nowhere\.npy'"):
        small().fit("nowhere.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_on_disk_that_are_not_finite_are_named(
    x: np.ndarray, tmp_path: Path, bad: float
) -> None:
    broken = x.copy()
    broken[17, 2] = bad
    np.save(tmp_path / "x.npy", broken)
    with pytest.raises(ValueError, match=r"must be finite; got NaN or infinity.*row 17"):
        small().fit(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"`X` must be finite.*row 17"):
        small().fit(x).transform(tmp_path / "x.npy")
    with pytest.raises(ValueError, match=r"must be finite"):
        small().partial_fit(tmp_path / "x.npy")


def test_wrong_input_is_refused(x: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`y` must hold a label for each row of `X`, n_samples=50"):
        small().fit(x, [1, 2])
    with pytest.raises(ValueError, match="entries of at most 1e"):
        small().fit(x.astype(float) * 1e20)
    with pytest.raises(ValueError, match=r"\(n_samples, n_components\) = \(any, 24\); got"):
        small().fit(x).inverse_transform(x)
    with pytest.raises(ValueError, match="`gamma` must be a finite number in"):
        small(gamma=-1.0).fit(x)
    with pytest.raises(ValueError, match="`X` must be a real tensor of shape"):
        small().fit(torch.zeros(3))


@pytest.mark.parametrize(
    "data",
    [np.ones((1, 5)), np.full((9, 3), 7.0), np.zeros((4, 2)), np.arange(10.0)[:, None]],
    ids=["one sample", "constant", "zeros", "one feature"],
)
def test_degenerate_data_give_finite_results(data: np.ndarray) -> None:
    encoder = small().fit(data).partial_fit(data)
    assert np.isfinite(encoder.transform(data).data).all()
    assert np.isfinite(encoder.inverse_transform(encoder.transform(data))).all()


@pytest.mark.parametrize("scale", [1e-6])
def test_the_unit_of_the_data_does_not_matter(x: np.ndarray, scale: float) -> None:
    first, second = small(max_steps=12).fit(x), small(max_steps=12).fit(x * scale)
    np.testing.assert_allclose(
        first.transform(x).toarray(), second.transform(x * scale).toarray(), atol=1e-2
    )
