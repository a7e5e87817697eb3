"""Figures of accuracy against the size of the attacker's step."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparsecode._checks import check_choice
from sparsecode.robustness.attacks import ATTACKS
from sparsecode.robustness.report import RobustnessReport

CURVES = ("clean", "certified", *ATTACKS, "worst")


def accuracy_figure(
    reports: Mapping[str, RobustnessReport],
    measures: Sequence[str] = ("pgd", "certified"),
    *,
    ax: Any = None,
) -> Any:
    """Draw accuracy against eps, one color a classifier and one line style a measure.

    Parameters
    ----------
    reports : mapping of str to RobustnessReport
        Name of each classifier and its report, all in the same norm.
    measures : sequence of str, default=("pgd", "certified")
        Curves of `RobustnessReport.accuracy`; a report without one of them leaves it out.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If norms differ, or there is no such measure.
    ImportError
        If matplotlib is not installed.
    """
    norms = {report.norm for report in reports.values()}
    if len(norms) != 1:
        raise ValueError(f"`reports` must all be in one norm; got {sorted(norms)}.")
    known = {name for report in reports.values() for name in report.accuracy}
    for measure in measures:
        check_choice("measures", measure, sorted(known.union(CURVES)))
    if ax is None:
        ax = _new_axes()
    for i, (name, report) in enumerate(reports.items()):
        curves = report.accuracy
        for measure, style in zip(measures, itertools.cycle(("-", "--", ":", "-.")), strict=False):
            if measure in curves:
                points = np.concatenate([[report.clean], curves[measure]])
                label = f"{name}: {measure}"
                ax.plot(
                    [0, *report.eps], 100 * points, style, color=f"C{i}", marker=".", label=label
                )
    ax.set(xlabel=f"eps ({norms.pop()})", ylabel="accuracy (%)", ylim=(0, 100))
    ax.set_xlim(left=0)
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def _new_axes() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib; it is not installed. "
            "Run pip install 'sparsecode[robustness]'."
        ) from error
    return Figure(figsize=(6, 4), layout="constrained").add_subplot()
