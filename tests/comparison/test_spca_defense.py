"""Sparse against ordinary components under attack, on MNIST: one split of the benchmark's four."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from sparsecode.robustness import SparsePCAClassifier, robustness_report


@pytest.fixture(scope="module")
def split(sparsecode_data: Path) -> tuple[np.ndarray, ...]:
    file = sparsecode_data / "mnist_17k.npz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with np.load(file) as content:
        X, X_test = (content[name].reshape(-1, 784) / 255.0 for name in ("x_train", "x_test"))
        train = np.random.default_rng(4).permutation(len(X))[:6000]
        test = slice(6000, 6600)  # images that the benchmark does not use
        return X[train], content["y_train"][train], X_test[test], content["y_test"][test]


def test_sparse_components_withstand_more_at_no_cost(split: tuple[np.ndarray, ...]) -> None:
    reason = "needs the attack library: pip install 'sparsecode[robustness]'"
    pytest.importorskip("art", reason=reason, exc_type=ImportError)
    X, y, X_test, y_test = split
    sparse = SparsePCAClassifier(50, alpha=1.0, head="mlp", random_state=0).fit(X, y)
    front_end = PCA(50, whiten=True, random_state=0).fit(X)
    network = MLPClassifier((128,), alpha=0.0, batch_size=128, random_state=0)
    for _ in range(20):
        network.partial_fit(front_end.transform(X), y, classes=np.arange(10))
    dense = make_pipeline(front_end, network)
    for norm, eps, gain in (("linf", 0.1, 0.08), ("l2", 1.0, 0.04)):
        reports = [
            robustness_report(m, X_test, y_test, [eps], norm, attacks=["pgd"], box=(0.0, 1.0))
            for m in (sparse, dense)
        ]
        assert reports[0].clean >= reports[1].clean - 0.01
        assert reports[0]["pgd"][0] >= reports[1]["pgd"][0] + gain
        assert [report.n_contradictions for report in reports] == [0, 0]
