import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA, DictionaryLearning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from torch import nn

from sparsecode import topk
from sparsecode.robustness import RobustnessReport, certify, robustness_report


@pytest.fixture
def art() -> None:
    reason = "needs the attack library: pip install 'sparsecode[robustness]'"
    pytest.importorskip("art", reason=reason, exc_type=ImportError)


def data(n: int = 80, d: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size=n)
    X = 0.5 + 0.25 * rng.normal(size=(3, d))[y] + 0.1 * rng.normal(size=(n, d))
    return X.clip(0, 1), y


class TopKCodes(TransformerMixin, BaseEstimator):
    """k-sparse codes as a front end: no module, no certificate, kinks and jumps."""

    def __init__(self, k: int = 3) -> None:
        self.k = k

    def fit(self, X: Any, y: Any = None) -> "TopKCodes":
        self.dictionary_ = np.random.default_rng(0).normal(size=(X.shape[1], 20))
        return self

    def transform(self, X: Any) -> np.ndarray:
        codes = topk(torch.from_numpy(np.asarray(X, dtype=np.float64) @ self.dictionary_), self.k)
        return codes.to_dense().numpy()


def test_accuracies_are_in_order_and_no_attack_contradicts_the_certificate(art: None) -> None:
    X, y = data(n=40)
    model = make_pipeline(PCA(5), LogisticRegression(C=10)).fit(X, y)
    for norm, eps in (("linf", [0.1, 0.2]), ("l2", [0.3, 0.5]), ("l1", [0.2, 0.8])):
        report = robustness_report(model, X, y, eps, norm)
        curves = report.accuracy
        names = ["clean", "certified", "fgsm", "pgd", "mim", "square", "worst"]
        assert list(curves) == [name for name in names if norm != "l1" or name != "square"]
        assert report.n_contradictions == 0
        for name in names[2:]:
            if name in curves:
                assert (curves["certified"] <= curves[name]).all()
                assert (curves[name] <= report.clean).all()
                assert (np.diff(curves[name]) <= 0).all()
                assert (curves["worst"] <= curves[name]).all()
        assert curves["worst"][-1] < report.clean - 0.1
        assert (curves["worst"] <= curves["certified"] + 0.05).all()
        assert report.gradients == "exact"


def test_networks_are_attacked_and_bounded(art: None) -> None:
    X, y = data()
    model = make_pipeline(PCA(5), MLPClassifier((16,), max_iter=500, random_state=0, tol=1e-3))
    report = robustness_report(model.fit(X, y), X, y, [0.02, 0.1], attacks=["fgsm", "pgd"])
    assert report.n_contradictions == 0
    assert (report["certified"] <= report["worst"]).all()
    assert report["pgd"][-1] <= report["fgsm"][-1] < report.clean
    assert report.certificate is not None
    assert not report.certificate.is_exact


@pytest.mark.parametrize(
    "front_end",
    [
        TopKCodes(),
        DictionaryLearning(
            8,
            max_iter=2,
            transform_algorithm="omp",
            transform_n_nonzero_coefs=3,
            random_state=0,
        ),
    ],
    ids=["k-sparse", "dictionary codes"],
)
def test_any_front_end_with_transform_is_reported_on(front_end: Any, art: None) -> None:
    X, y = data(n=60)
    model = make_pipeline(front_end, LogisticRegression(C=10)).fit(X, y)
    report = robustness_report(model, X[:15], y[:15], [0.5], attacks=["pgd", "square"])
    assert report.gradients == "finite differences"
    assert report.certificate is None
    assert list(report.accuracy) == ["clean", "pgd", "square", "worst"]
    assert report["pgd"][-1] < report.clean


def test_torch_modules_are_reported_on(art: None) -> None:
    X, y = data()
    folded = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))

    class Opaque(nn.Module):
        """The same network, of a kind that does not fold."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = folded

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    reports = [robustness_report(m, X, y, [0.1], attacks=["pgd"]) for m in (folded, Opaque())]
    assert reports[0].clean == reports[1].clean
    assert reports[0]["pgd"] == pytest.approx(reports[1]["pgd"], abs=0.03)
    assert reports[0].certificate is not None
    assert reports[1].certificate is None
    assert reports[1].gradients == "exact"


def test_images_and_labels_keep_their_form(art: None) -> None:
    X, y = data()
    images = torch.from_numpy(X).reshape(-1, 1, 3, 3)
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    settings = {"box": (0.0, 1.0), "image_shape": (1, 3, 3), "attacks": ["square"]}
    report = robustness_report(network, images, torch.from_numpy(y), [0.2], **settings)
    assert 0 <= report["square"][0] <= report.clean
    assert report.certificate is not None
    assert "box" not in report.certificate.kind
    linear = LogisticRegression().fit(X, y)
    boxed = robustness_report(linear, X, y, [0.2], box=(0.0, 1.0), attacks=[])
    assert boxed.certificate is not None
    assert "box" in boxed.certificate.kind


def report_of(broken: list[float], radius: list[float]) -> RobustnessReport:
    X, y = data(n=len(broken))
    certificate = certify(LogisticRegression().fit(*data()), X, y)
    certificate.radius[:] = radius
    eps = np.array([0.1, 0.2])
    return RobustnessReport(eps, "linf", 0.75, {"pgd": np.array(broken)}, certificate, "exact")


def test_curves_are_counted_from_what_broke_when() -> None:
    report = report_of([0.0, 0.1, 0.2, np.inf], [0.0, 0.05, 0.1, 0.3])
    assert report["clean"].tolist() == [0.75, 0.75]
    assert report["certified"].tolist() == [0.25, 0.25]
    assert report["pgd"].tolist() == [0.5, 0.25]
    assert report["worst"].tolist() == [0.5, 0.25]
    assert report.n_contradictions == 0
    assert report_of([0.0, 0.1, 0.2, np.inf], [0.0, 0.15, 0.25, 0.3]).n_contradictions == 2


def test_a_report_is_printed_and_written() -> None:
    report = report_of([0.0, 0.1, 0.2, np.inf], [0.0, 0.05, 0.1, 0.3])
    lines = str(report).split("\n")
    assert lines[0] == "Robustness in linf; gradients exact; certificate exact"
    assert lines[1].split() == ["eps", "0.1", "0.2"]
    assert lines[4].split() == ["pgd", "50.0%", "25.0%"]
    written = json.loads(json.dumps(report.to_dict()))
    assert written["accuracy"]["pgd"] == [0.5, 0.25]
    assert written["certificate"] == "exact"


def test_sizes_are_sorted_and_counted_once() -> None:
    model = LogisticRegression().fit(*data())
    report = robustness_report(model, *data(), [0.2, 0.1, 0.2], attacks=[])
    assert report.eps.tolist() == [0.1, 0.2]
    assert robustness_report(model, *data(), 0.2, attacks=[]).eps.tolist() == [0.2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l0"}, "`norm` must be one of"),
        ({"attacks": ["cw"]}, "`attacks` must be one of 'fgsm'"),
        ({"attacks": ["square"], "norm": "l1"}, "`attacks` must be one of 'fgsm', 'pgd', 'mim'; "),
        ({"eps": [0.1, -1.0]}, "`eps` must be a finite number in"),
        ({"eps": []}, r"`eps` must hold at least one step size; got \[\]"),
        ({"box": (0.6, 0.4)}, r"`box` must be \(low, high\) with low < high"),
        ({"box": (0.4, 0.6)}, r"`X` must lie in `box` = \(0.4, 0.6\); got entries from"),
        ({"y": [0, 1]}, r"`y` must have shape \(n_samples,\) = \(80,\); got \(2,\)"),
        ({"X": np.zeros(9)}, r"`X` must have shape \(n_samples, ...\)"),
        ({"X": np.full((80, 9), np.inf)}, "`X` must be finite"),
    ],
    ids=[
        "norm",
        "attack",
        "square in l_1",
        "eps",
        "no eps",
        "no box",
        "box",
        "y",
        "shape",
        "infinity",
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    X, y = data()
    model = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match=message):
        robustness_report(model, **{"X": X, "y": y, "eps": [0.1], "attacks": []} | settings)
