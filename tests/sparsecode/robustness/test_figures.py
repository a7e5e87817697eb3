import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sparsecode.robustness import RobustnessReport, accuracy_figure, robustness_report


def reports() -> dict[str, RobustnessReport]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = (X[:, 0] > 0).astype(int)
    models = {name: LogisticRegression(C=c).fit(X, y) for name, c in (("a", 1.0), ("b", 0.01))}
    eps = [0.1, 0.3]
    return {name: robustness_report(m, X, y, eps, attacks=()) for name, m in models.items()}


def test_each_classifier_has_a_color_and_each_measure_a_style(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws the figure")
    found = reports()
    ax = accuracy_figure(found, ["certified", "clean", "pgd"])
    lines = ax.get_lines()
    labels = ["a: certified", "a: clean", "b: certified", "b: clean"]
    assert [line.get_label() for line in lines] == labels
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() == lines[2].get_linestyle() != lines[1].get_linestyle()
    np.testing.assert_allclose(lines[0].get_xdata(), [0, 0.1, 0.3])
    expected = [found["a"].clean, *found["a"]["certified"]]
    np.testing.assert_allclose(lines[0].get_ydata(), 100 * np.array(expected))
    assert ax.get_xlabel() == "eps (linf)"
    ax.figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_it_draws_where_it_is_told() -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="draws the figure")
    ax = figures.Figure().add_subplot()
    assert accuracy_figure(reports(), ax=ax) is ax


def test_norms_are_not_mixed() -> None:
    found = reports()
    other = RobustnessReport(np.array([0.1]), "l2", 1.0, {}, None, "exact")
    with pytest.raises(ValueError, match=r"must all be in one norm; got \['l2', 'linf'\]"):
        accuracy_figure(found | {"c": other})


def test_measures_must_exist() -> None:
    with pytest.raises(ValueError, match=r"`measures` must be one of .*'pgd'.*; got 'pdg'"):
        accuracy_figure(reports(), ["pdg"])


def test_without_matplotlib_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'sparsecode\[robustness\]'"):
        accuracy_figure(reports())
