"""``sae dashboard``: a folder with a page of all latents."""

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
    pages.write_dashboard,
    {
        "hookpoint": DATA,
        "max_rows": DATA,
        "lm": PAGE,
        "n_examples": PAGE,
        "neuronpedia": PAGE,
        "progress": OTHER,
    },
    kinds={"lm": str | None},
    flags={"n_examples": ("--examples",)},
    defaults={"progress": None},
    helps={
        "progress": PROGRESS,
        "lm": "A causal language model, by name or folder, for the tokens that each latent "
        "promotes and suppresses.",
    },
)


EPILOG = examples(
    "Examples:",
    "sae dashboard run activations --out dashboard",
    "sae dashboard run activations --lm gpt2 --max-rows 200000 --out dashboard",
)


@with_options(OPTIONS, PANELS)
def dashboard(
    run: RunFolder,
    data: DataPath,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")] = Path(
        "dashboard"
    ),
    join: Join = None,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Make a folder with a page to search, sort and read all latents.

    It opens from the disk or from any web server and needs no network; it also holds JSON for
    Neuronpedia. For one file to send around, see `sae report`.
    """
    with sentences(debug, after_interrupt=this_command):
        source = open_data(data, options.pop("hookpoint"), stored_config(run), join)
        written = pages.write_dashboard(run, source, out, **options)
    files = [path for path in out.rglob("*") if path.is_file()]
    size = f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {len(files)} files"
    print_table("Dashboard", [("Folder", str(out)), ("Size", size)])
    typer.echo(f"Open it in a browser: {written.resolve().as_uri()}")
