"""``sae report``: one page that shows the run and its latents."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sae import report as pages
from sae.cli.arguments import (
    DATA,
    OTHER,
    PAGE,
    PANELS,
    PROGRESS,
    DataPath,
    Debug,
    Join,
    RunFolder,
    examples,
)
from sae.cli.errors import sentences, this_command
from sae.cli.options import of_function, with_options
from sae.cli.runs import open_data, stored_config
from sae.cli.tables import print_table

OPTIONS = of_function(
    pages.write,
    {"hookpoint": DATA, "max_rows": DATA, "n_examples": PAGE, "progress": OTHER},
    flags={"n_examples": ("--examples",)},
    defaults={"progress": None},
    helps={"progress": PROGRESS},
)


EPILOG = examples(
    "Examples:",
    "sae report run activations --out report.html",
    "sae report run activations --examples 4 --max-rows 200000 --out small.html",
)


@with_options(OPTIONS, PANELS)
def report(
    run: RunFolder,
    data: DataPath,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    join: Join = None,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Make a page that shows the run and what every latent stands for.

    One HTML file that needs no network: curves, metrics, and a list of all latents to search,
    each with the text on which it is most active.
    """
    with sentences(debug, after_interrupt=this_command):
        source = open_data(data, options.pop("hookpoint"), stored_config(run), join)
        written = pages.write(run, source, out, **options)
    size = f"{written.stat().st_size / 1e6:.1f} MB"
    print_table("Report", [("File", str(written)), ("Size", size)])
    typer.echo(f"Open it in a browser: {written.resolve().as_uri()}")
