"""The page: everything that is known of a run, rendered into one file that needs no network."""

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae.cache import AbstractSource, Cache, JoinedSource, as_source
from sae.files import load
from sae.interpret import EncodedRows, browser_data
from sae.report.charts import firing_charts, training_charts
from sae.report.summary import Run, cards, evaluation_of, facts, lead, settings
from sparsecode import io
from sparsecode._checks import check_int

TEMPLATES = Path(__file__).parent / "templates"


def write(
    run: str | Path,
    data: Any,
    out: str | Path = "report.html",
    *,
    hookpoint: str | None = None,
    n_examples: int = 8,
    max_rows: int | None = 1_000_000,
    progress: bool | None = False,
) -> Path:
    """Write the report of a training run as one HTML file.

    It shows the training curves, the evaluation on held-out rows, and every latent: the text on
    which it is most active, how often it fires, and its nearest relatives. The file holds all that
    it needs and loads nothing.

    Parameters
    ----------
    run : path
        Folder of the run, as `sae.Trainer` wrote it.
    data : cache folder, Cache, ``.npy`` file, array or tensor
        Where examples come from. Only a cache has text; of an array the row numbers are shown.
    out : path, default="report.html"
    hookpoint : str or None, default=None
        Of a cache folder with several hookpoints.
    n_examples : int, default=8
        Top examples of each latent; the size of the file grows with it.
    max_rows : int or None, default=1_000_000
        Look for examples in no more than the first rows; None looks at all.
    progress : bool or None, default=False
        Whether to show progress bars; None shows them on a terminal.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If Jinja2 or plotly is not installed.
    FileNotFoundError
        If `run` holds no trained autoencoder.
    ValueError
        If the width of the data is not that of the autoencoder.
    """
    from tqdm.auto import tqdm

    _need_packages()
    n_examples = check_int("n_examples", n_examples, low=1)
    folder = Path(run)
    model = load(folder)
    source = as_source(data, hookpoint=hookpoint, n_features=model.row_width)
    n_rows = min(source.n_rows, max_rows or source.n_rows)
    hidden = None if progress is None else not progress
    with tqdm(total=n_rows, desc="report", unit=" rows", unit_scale=True, disable=hidden) as bar:
        encoded = EncodedRows(model, source, max_rows=max_rows, progress=bar.update)
        latents = browser_data(encoded, vocabulary_of(source), n_top=n_examples)
    found = Run(
        model=model,
        source=source,
        config=io.read_json(folder / "config.json") if (folder / "config.json").exists() else {},
        metrics=_metrics(folder / "metrics.jsonl"),
        evaluation=evaluation_of(folder, model, source),
    )
    io.write_bytes(out, render(found, latents).encode())
    return Path(out)


def render(run: Run, latents: Mapping[str, Any]) -> str:
    """Return the HTML text of a report.

    Parameters
    ----------
    run : Run
    latents : mapping
        What `sae.interpret.browser_data` returned.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    curves, firing = training_charts(run.metrics), firing_charts(run.evaluation)
    figures = {chart.name: chart.figure for chart in [*curves, *firing]}
    heading, *rest = facts(run)
    return environment.get_template("report.html.j2").render(
        heading=heading,
        facts=rest,
        lead=lead(run),
        cards=cards(run, latents),
        curves=curves,
        firing=firing,
        has_text="vocabulary" in latents,
        settings=settings(run),
        # These four enter the page as they are; all else is escaped by the template engine.
        figures=embedded_json(figures),
        data=embedded_json(latents),
        css=(TEMPLATES / "report.css").read_text(),
        javascript=(TEMPLATES / "report.js").read_text(),
        # A third of its size; the page unpacks it after the latents are there.
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    )


def embedded_json(value: Any) -> str:
    """Return JSON that can stand inside a script element whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def vocabulary_of(source: AbstractSource) -> list[str] | None:
    """Return the pieces of the tokenizer; none at all for data without tokens."""
    return (source.vocabulary or []) if isinstance(source, (Cache, JoinedSource)) else None


def _metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError:
        raise io.CorruptFileError(
            f"`{path}` must hold one JSON object a line; it does not. Restore it, or delete it to "
            "have a report without training curves."
        ) from None


def _need_packages() -> None:
    """Refuse before any work where a package is missing."""
    try:
        import jinja2
        import plotly
    except ImportError as error:
        raise ImportError(
            f"`sae.report` needs Jinja2 and plotly; {error.name} is not installed. "
            "Run: pip install 'sparsecode[report]'"
        ) from None
    del jinja2, plotly
