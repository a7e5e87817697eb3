import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import SparseCoder as SklearnCoder
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsecode.decomposition import SparseCoder
from sparsecode.penalties import CEL0, L0, L1, MCP, WeightedL1
from sparsecode.solvers import FISTA, ISTA, OMP, CoordinateDescent
from sparsecode.testing import max_new_bytes


@pytest.fixture(name="dictionary")
def dictionary_() -> np.ndarray:
    atoms = np.random.default_rng(0).normal(size=(30, 12))
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


@pytest.fixture(name="X")
def x_(dictionary: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(50, 30)) * (rng.random((50, 30)) < 0.1)
    return z @ dictionary + 0.02 * rng.normal(size=(50, 12))


@parametrize_with_checks(
    [
        SparseCoder(),
        SparseCoder(solver=OMP(2), sparse_output=True),
        SparseCoder(penalty=L1(0.1), solver=FISTA(tol=1e-3)),
        SparseCoder(penalty=L0(0.1), solver=ISTA(tol=1e-2, max_iter=100_000)),
    ]
)
def test_check_estimator(estimator: SparseCoder, check: Any) -> None:
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
    getattr(estimator_checks, name)("SparseCoder", SparseCoder())


def test_codes_are_those_of_scikit_learn(X: np.ndarray, dictionary: np.ndarray) -> None:
    theirs = SklearnCoder(dictionary, transform_n_nonzero_coefs=4).fit_transform(X)
    np.testing.assert_allclose(SparseCoder(dictionary, solver=OMP(4)).fit_transform(X), theirs)
    lasso = SklearnCoder(
        dictionary, transform_algorithm="lasso_cd", transform_alpha=0.1, transform_max_iter=10_000
    ).fit_transform(X)
    ours = SparseCoder(dictionary, penalty=L1(0.1)).fit_transform(X)
    np.testing.assert_allclose(ours, lasso, atol=2e-3)


def test_csr_holds_the_same_codes(X: np.ndarray, dictionary: np.ndarray) -> None:
    dense = SparseCoder(dictionary, penalty=L1(0.1)).fit(X)
    sparse = clone(dense).set_params(sparse_output=True).fit(X)
    codes = sparse.transform(X)
    np.testing.assert_array_equal(codes.toarray(), dense.transform(X))
    assert codes.nnz < 50 * 30 / 2
    back = dense.inverse_transform(codes)
    np.testing.assert_allclose(back, dense.inverse_transform(dense.transform(X)), atol=1e-12)
    with pytest.raises(ValueError, match="outputs a scipy sparse matrix"):
        sparse.set_output(transform="pandas").transform(X)


def test_a_tensor_gives_a_tensor(X: np.ndarray, dictionary: np.ndarray) -> None:
    coder = SparseCoder(dictionary, solver=OMP(3)).fit(X)
    codes = coder.transform(torch.from_numpy(X))
    assert isinstance(codes, torch.Tensor)
    np.testing.assert_array_equal(codes.numpy(), coder.transform(X))
    assert isinstance(coder.inverse_transform(codes), torch.Tensor)


@pytest.mark.parametrize(
    ("penalty", "solver"),
    [
        (None, OMP),
        (L1(0.1), CoordinateDescent),
        (WeightedL1(torch.ones(30)), FISTA),
        (CEL0(0.1), ISTA),
    ],
)
def test_the_solver_that_serves(
    penalty: Any, solver: type, X: np.ndarray, dictionary: np.ndarray
) -> None:
    coder = SparseCoder(dictionary, penalty=penalty).fit(X)
    assert type(coder.solver_) is solver
    assert pickle.loads(pickle.dumps(coder)).transform(X).shape == (50, 30)


def test_each_row_is_coded_by_itself(X: np.ndarray, dictionary: np.ndarray) -> None:
    coder = SparseCoder(dictionary, penalty=MCP(0.1)).fit(X)
    alone = np.vstack([coder.transform(row[None]) for row in X])
    np.testing.assert_allclose(alone, coder.transform(X), atol=1e-7)


def test_what_is_refused(X: np.ndarray, dictionary: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"`L0` is not\. Use `ISTA`"):
        SparseCoder(dictionary, penalty=L0(0.1), solver=FISTA()).fit(X)
    with pytest.raises(ValueError, match=r"`dictionary` must have shape .*; got \(12, 30\)"):
        SparseCoder(dictionary.T).fit(X)
    with pytest.raises(ValueError, match=r"n_components\) = \(any, 30\); got \(50, 12\)"):
        SparseCoder(dictionary).fit(X).inverse_transform(X)
    with pytest.raises(ValueError, match='`device` must be "auto"'):
        SparseCoder(dictionary, device="abacus").fit(X)
    with pytest.raises(NotFittedError):
        SparseCoder(dictionary).transform(X)


@pytest.mark.parametrize("kind", [torch.int64, torch.bfloat16, torch.float16], ids=str)
def test_dictionaries_of_any_number_serve(kind):
    atoms = torch.tensor([[1, 0], [0, 1], [2, 1]], dtype=kind)
    X = np.array([[2.0, 1.0], [0.0, 3.0]])
    codes = SparseCoder(atoms, solver=OMP(1)).fit_transform(X)
    np.testing.assert_allclose(codes, [[0, 0, 1], [0, 3, 0]])
    if kind == torch.int64:
        np.testing.assert_array_equal(
            SparseCoder(atoms.numpy(), solver=OMP(1)).fit_transform(X), codes
        )
    with pytest.raises(TypeError, match="`dictionary` must be a floating tensor"):
        SparseCoder(atoms.to(torch.complex64)).fit(X)


def test_atoms_that_are_mapped_read_only_serve(X, dictionary):
    coder = SparseCoder(dictionary, solver=OMP(2)).fit(X)
    wanted = coder.transform(X)
    coder.components_.flags.writeable = False
    np.testing.assert_array_equal(coder.transform(X), wanted)
    codes = torch.from_numpy(wanted)
    assert torch.equal(coder.inverse_transform(codes), codes @ torch.from_numpy(dictionary))


@pytest.mark.parametrize(
    "settings",
    [{"solver": OMP(5)}, {"penalty": L1(2.5), "solver": CoordinateDescent(tol=1e-3)}],
    ids=["omp", "lasso"],
)
def test_memory_is_flat_in_the_number_of_rows(settings, monkeypatch):
    """Three thousand rows more take a few copies of their codes more, not a dense row each."""
    monkeypatch.setattr("sparsecode.solvers.base.CHUNK_ENTRIES", 1 << 16)
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(256, 64))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    peaks, sizes = [], []
    for n_rows in (1024, 4096):
        X = rng.normal(size=(n_rows, 64))
        coder = SparseCoder(atoms, sparse_output=True, device="cpu", **settings).fit(X)
        codes = coder.transform(X)
        sizes.append(codes.data.nbytes + codes.indices.nbytes + codes.indptr.nbytes)
        peaks.append(max_new_bytes(lambda coder=coder, X=X: coder.transform(X)))
    assert peaks[1] - peaks[0] < 8 * (sizes[1] - sizes[0]) < 3072 * 64 * 8 * 1.5
