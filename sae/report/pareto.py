"""pareto.html: the runs of a sweep as points of FVU over L0, and as a table."""

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from sae.report.charts import plain
from sae.report.page import TEMPLATES, embedded_json
from sparsecode import io

Row = Mapping[str, Any]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
COLUMNS = {
    "name": "{}",
    "fvu": "{:.4f}",
    "l0": "{:.2f}",
    "dead_fraction": "{:.1%}",
    "cosine": "{:.4f}",
}


def write_pareto(runs: Sequence[Row], out: str | Path) -> Path:
    """Write the page of a sweep: one HTML file that needs no network.

    Parameters
    ----------
    runs : sequence of dict
        As in `sae.sweeps.SweepResult`.
    out : path

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If Jinja2 or plotly is not installed.
    """
    need_packages()
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = pareto_figures(runs)
    page = environment.get_template("pareto.html.j2").render(
        n_runs=len(runs),
        titles=list(figures),
        rows=[_cells(run) for run in sorted(runs, key=_by_result)],
        failures=[run for run in runs if run["failure"] is not None],
        # These enter the page as they are; all else is escaped by the template engine.
        figures=embedded_json(list(figures.values())),
        css=(TEMPLATES / "report.css").read_text(),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    )
    io.write_bytes(out, page.encode())
    return Path(out)


def pareto_figures(runs: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return a figure for each hookpoint: points by architecture, and the front as a line.

    Parameters
    ----------
    runs : sequence of dict
    """
    import plotly.graph_objects as go

    kinds = sorted({run["architecture"] for run in runs})
    figures = {}
    for hookpoint, group in groupby(runs, key=lambda run: run["hookpoint"]):
        known = [run for run in group if run["fvu"] is not None]
        figure = go.Figure()
        front = sorted((run for run in known if run["front"]), key=lambda run: run["l0"])
        if front:
            x, y = [run["l0"] for run in front], [run["fvu"] for run in front]
            line = {"shape": "hv", "dash": "dot", "width": 1.5, "color": "#8a94a3"}
            figure.add_scatter(x=x, y=y, mode="lines", line=line, name="front", hoverinfo="skip")
        for kind in kinds:
            points = [run for run in known if run["architecture"] == kind]
            symbol = SYMBOLS[kinds.index(kind) % len(SYMBOLS)]
            figure.add_scatter(
                x=[run["l0"] for run in points],
                y=[run["fvu"] for run in points],
                text=[_hover(run) for run in points],
                name=kind,
                mode="markers",
                marker={"size": 10, "symbol": symbol, "opacity": 0.85},
                hovertemplate="%{text}<extra></extra>",
            )
        logarithmic = all(run["l0"] > 0 and run["fvu"] > 0 for run in known)
        kind_of_axis = "log" if logarithmic else "linear"
        figure.update_xaxes(title="L0: active latents per row", type=kind_of_axis)
        figure.update_yaxes(title="FVU, lower is better", type=kind_of_axis, tickformat="~g")
        if logarithmic:
            figure.update_xaxes(tickvals=[2**power for power in range(20)])
        figures[hookpoint or "all rows"] = plain(figure)
    return figures


def need_packages() -> None:
    """Refuse before any work where a package is missing."""
    try:
        import jinja2
        import plotly
    except ImportError as error:
        raise ImportError(
            f"the page of a sweep needs Jinja2 and plotly; {error.name} is not installed. "
            "Run: pip install 'sparsecode[report]', or sweep without a page."
        ) from None
    del jinja2, plotly


def _by_result(run: Row) -> tuple[str, float]:
    return (run["hookpoint"] or "", math.inf if run["fvu"] is None else run["fvu"])


def _cells(run: Row) -> list[str]:
    values = [
        form.format(run[key]) if run[key] is not None else "" for key, form in COLUMNS.items()
    ]
    return [*values, "front" if run["front"] else "given up" if run["failure"] else ""]


def _hover(run: Row) -> str:
    return f"{run['name']}<br>FVU {run['fvu']:.4f}, L0 {run['l0']:.2f}"
