"""Quality against cost: a table and a plot of several encoders, pruning rules or indexes."""

from collections.abc import Mapping, Sequence
from typing import Any


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of names and numbers as aligned text.

    Parameters
    ----------
    rows : sequence of mapping
        Each with the same kind of keys, such as ``{"name": "k=32", "nDCG@10": 0.4, "flops": 1.2}``.

    Returns
    -------
    str

    Examples
    --------
    >>> print(cost_table([{"name": "k=8", "nDCG@10": 0.25}, {"name": "k=32", "nDCG@10": 0.375}]))
    name  nDCG@10
    k=8    0.2500
    k=32   0.3750
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    numeric = [any(isinstance(row.get(column), (int, float)) for row in rows) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def cost_plot(
    rows: Sequence[Mapping[str, Any]], *, quality: str = "nDCG@10", cost: str = "flops"
) -> Any:
    """Return a plotly figure of quality against cost.

    Parameters
    ----------
    rows : sequence of mapping
        Each with ``name``, `quality` and `cost`; rows with the same ``group`` are joined by a line
        in ascending order of cost.
    quality : str, default="nDCG@10"
    cost : str, default="flops"
        On a logarithmic axis.

    Returns
    -------
    plotly.graph_objects.Figure
        ``figure.write_html(path)`` makes a page of it.
    """
    try:
        import plotly.graph_objects as go
    except ModuleNotFoundError:
        raise ImportError(
            "`cost_plot` needs plotly. Install it with pip install 'sparsecode[report]'."
        ) from None
    for row in rows:
        missing = [key for key in ("name", quality, cost) if key not in row]
        if missing:
            raise ValueError(f"`rows` must each have {missing[0]!r}; got keys {sorted(row)}.")
    figure = go.Figure()
    for group in dict.fromkeys(row.get("group", "") for row in rows):
        own = sorted((row for row in rows if row.get("group", "") == group), key=lambda r: r[cost])
        figure.add_trace(
            go.Scatter(
                x=[row[cost] for row in own],
                y=[row[quality] for row in own],
                text=[row["name"] for row in own],
                name=str(group),
                mode="lines+markers+text" if group else "markers+text",
                textposition="top center",
            )
        )
    figure.update_layout(xaxis={"type": "log", "title": cost}, yaxis={"title": quality})
    return figure


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
