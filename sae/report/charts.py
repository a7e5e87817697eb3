"""Charts of a run as plotly figures; colors and fonts are the page's business."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MAX_POINTS = 600
SHARES = {"type": "log", "dtick": 1, "tickformat": "~%"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart: what is written around it, and the figure as plotly's plain data."""

    name: str
    title: str
    note: str
    summary: str
    figure: dict[str, Any]


def training_charts(metrics: Sequence[Row]) -> list[Chart]:
    """Return the curves of a run, those for which there are numbers.

    Parameters
    ----------
    metrics : sequence of dict
        Rows of ``metrics.jsonl``.
    """
    train = [row for row in metrics if row.get("split") != "heldout"]
    heldout = [row for row in metrics if row.get("split") == "heldout"]
    losses = sorted({key for row in train for key in row if key.startswith("loss/")})
    charts = [
        _curves(
            "fvu",
            "Fraction of variance unexplained",
            "lower is better",
            {"training": _series(train, "fvu"), "held out": _series(heldout, "fvu")},
            log=True,
        ),
        _curves(
            "loss",
            "Loss terms",
            "in units of the variance of the data",
            {name.removeprefix("loss/"): _series(train, name) for name in losses},
            log=True,
        ),
        _curves(
            "l0",
            "Active latents per token (L0)",
            "mean over the batch",
            {"training": _series(train, "l0"), "held out": _series(heldout, "l0")},
        ),
        _curves(
            "dead",
            "Dead latents",
            "share that has not fired for long",
            {"training": _series(train, "dead_fraction")},
            tickformat=".1~%",
        ),
        _curves("lr", "Learning rate", "", {"training": _series(train, "lr")}),
        _curves(
            "speed", "Tokens per second", "", {"training": _series(train, "tokens_per_second")}
        ),
    ]
    return [chart for chart in charts if chart is not None]


def firing_charts(evaluation: Row) -> list[Chart]:
    """Return the histogram of firing frequencies and the map of latents.

    The points of the map are left to the page, which has their numbers already.

    Parameters
    ----------
    evaluation : dict
        What `sae.evaluate` returned.
    """
    import plotly.graph_objects as go

    histogram = evaluation["frequency_histogram"]
    edges, counts = histogram["log10_edges"], histogram["counts"]
    middles = [10 ** ((low + high) / 2) for low, high in pairwise(edges)]
    widths = [0.94 * (10**high - 10**low) for low, high in pairwise(edges)]
    figure = go.Figure(
        go.Bar(
            x=middles,
            y=counts,
            width=widths,
            hovertemplate="fires on about %{x:.2~%} of the tokens<br>%{y} latents<extra></extra>",
        )
    )
    figure.update_xaxes(title="share of tokens on which a latent fires", **SHARES)
    figure.update_yaxes(title="latents")
    never = histogram["never"]
    points = go.Figure(
        go.Scatter(
            x=[],
            y=[],
            text=[],
            mode="markers",
            marker={"size": 5, "opacity": 0.6},
            hovertemplate="%{text}<br>fires on %{x:.2~%}, at most %{y:.3~g}<extra></extra>",
        )
    )
    points.update_xaxes(title="share of tokens on which it fires", **SHARES)
    points.update_yaxes(title="largest activation", type="log", tickformat="~g", dtick="D2")
    which = "held-out tokens" if evaluation.get("split") == "heldout" else "tokens"
    return [
        Chart(
            "frequency",
            "Firing frequency",
            f"on {which}; the {never:,} latents that never fired on them are not in the bars",
            f"Histogram of the firing frequency of {sum(counts)} latents.",
            plain(figure),
        ),
        Chart(
            "latents",
            "Map of the latents",
            "click a point to read its examples",
            "Scatter plot of the latents by frequency and largest activation.",
            plain(points),
        ),
    ]


def _series(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    """Return steps and finite values of a metric, thinned to at most `MAX_POINTS` points."""
    points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    points = [(step, value) for step, value in points if value - value == 0]
    stride = max(1, -(-len(points) // MAX_POINTS))
    kept = points[::-1][::stride][::-1]  # the last point always stays
    return [step for step, _ in kept], [value for _, value in kept]


def _curves(
    name: str,
    title: str,
    note: str,
    series: Mapping[str, tuple[list[float], list[float]]],
    *,
    log: bool = False,
    tickformat: str | None = None,
) -> Chart | None:
    import plotly.graph_objects as go

    log = log and all(value >= 0 for _, values in series.values() for value in values)
    if log:  # a term that is 0 for a while has no place there
        series = {label: _positive(points) for label, points in series.items()}
    drawn = {label: points for label, points in series.items() if points[0]}
    if not drawn:
        return None
    figure = go.Figure()
    for label, (steps, values) in drawn.items():
        mode = "lines" if len(steps) > 30 else "lines+markers"
        figure.add_scatter(x=steps, y=values, name=label, mode=mode, line={"width": 2})
    figure.update_xaxes(title="step")
    if log:
        note = f"{note}, logarithmic"
        figure.update_yaxes(type="log", tickformat="~g", dtick="D2")
    else:
        figure.update_yaxes(rangemode="tozero", tickformat=tickformat)
    figure.update_layout(showlegend=len(drawn) > 1)
    ends = "; ".join(f"{label} ends at {values[-1]:.4g}" for label, (_, values) in drawn.items())
    return Chart(name, title, note, f"{title} over the training steps: {ends}.", plain(figure))


def _positive(points: tuple[list[float], list[float]]) -> tuple[list[float], list[float]]:
    kept = [(step, value) for step, value in zip(*points, strict=True) if value > 0]
    return [step for step, _ in kept], [value for _, value in kept]


def plain(figure: Any) -> dict[str, Any]:
    """Return a figure as plain data, without plotly's own colors."""
    figure.update_layout(
        template="none",
        margin={"l": 58, "r": 12, "t": 10, "b": 42},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"},
        hovermode="closest",
    )
    return figure.to_plotly_json()
