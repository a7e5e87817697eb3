"""``sae export``: an autoencoder in the format of another library."""

from pathlib import Path
from typing import Annotated

import typer

from sae import compat
from sae.cli.arguments import Debug, RunFolder, examples
from sae.cli.errors import sentences
from sae.cli.tables import print_table
from sae.files import load

EPILOG = examples(
    "Examples:",
    "sae export run --format sparsify --out exported/layers.6",
    "sae export run --format saelens --out exported",
)


def export(
    run: RunFolder,
    *,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help=f"One of {', '.join(compat.WRITERS)}.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")] = Path(
        "exported"
    ),
    debug: Debug = False,
) -> None:
    """Write the autoencoder of a run in the format of another library.

    The library then gives the same codes. RUN may hold an autoencoder of yet another library.
    """
    with sentences(debug):
        folder = compat.export(load(run), out, format=format_name)
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    print_table("Export", [("Folder", str(folder)), ("Files", files)])
