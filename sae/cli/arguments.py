"""What several commands have in common: arguments, and headings of their help."""

from pathlib import Path
from typing import Annotated

import typer

AUTOENCODER, TRAINING, TOKENS, DATA = "Autoencoder", "Training", "Which tokens become rows", "Data"
SCHEDULES, NUMERICS, LOG = "Schedules", "Numerics", "Log and checkpoints"
SPEED, PAGE, SUITE, OTHER = "Speed and storage", "Page", "Suite", "Other"
PANELS = (AUTOENCODER, TRAINING, TOKENS, DATA, SCHEDULES, NUMERICS, LOG, SPEED, PAGE, SUITE, OTHER)
"""Headings of options in ``--help``, in their order."""

PROGRESS = "Show a progress bar; left to itself, on a terminal only."

Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OTHER),
]
Hookpoint = Annotated[
    str | None,
    typer.Option(
        help="Which activations to take, from a cache with several hookpoints. Names joined by + "
        "are put side by side: input+target of a transcoder, all of a crosscoder.",
        rich_help_panel=DATA,
    ),
]
Join = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        help="A further cache of the same tokens, put beside the first, as for a crosscoder of "
        "several models; repeated for several. Of several hookpoints in it, --hookpoint is taken.",
        rich_help_panel=DATA,
    ),
]
RunFolder = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Folder that sae train wrote.", show_default=False),
]
DataPath = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="Folder that sae cache wrote, or a .npy file of activations.",
        show_default=False,
    ),
]


def examples(heading: str, *lines: str) -> str:
    """Return the text below the options: commands, each on a line of its own."""
    return "\n\n".join([heading, *(f"[dim]$[/dim] {line}" for line in lines)])
