"""``sae sweep``: activations in, many autoencoders and their Pareto plot out."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from sae.autoencoders import AUTOENCODERS
from sae.cli.arguments import (
    AUTOENCODER,
    DATA,
    OTHER,
    PANELS,
    TRAINING,
    DataPath,
    Debug,
    Join,
    examples,
)
from sae.cli.errors import sentences, this_command
from sae.cli.options import with_options
from sae.cli.runs import open_data
from sae.cli.tables import print_next, print_runs, print_table
from sae.cli.train import OPTIONS as OF_TRAIN
from sae.cli.train import settings_of_architectures
from sae.sweeps import Grid
from sae.sweeps import sweep as run_sweep
from sae.sweeps.run import PAGE, SUMMARY
from sparsecode.training import TrainConfig

OPTIONS = [option for option in OF_TRAIN if option.name not in ("lr", "seed")]

EPILOG = examples(
    "Examples:",
    "sae sweep activations --latents 4096,16384 -k 16,32,64 --seeds 0,1,2 --out sweep",
    "sae sweep activations --arch topk,batch_topk,matryoshka --lr 0.001,0.003 --out sweep",
    "sae sweep activations --arch relu --arch-option l1_coefficient=0.05,0.1,0.2 --out sweep",
    "sae sweep activations --hookpoints h.3,h.6 --out sweep",
)
EPILOG += "\n\nEach folder below the sweep is a run: sae evaluate and sae report take it."


def _listed(help_text: str, panel: str, *flags: str) -> Any:
    """Return the option of a list of values, separated by commas."""
    return typer.Option(*flags, metavar="A,B,...", help=help_text, rich_help_panel=panel)


@with_options(OPTIONS, PANELS)
def sweep(
    data: DataPath,
    *,
    out: Annotated[
        Path, typer.Option(metavar="SWEEP", help="Folder of the sweep.", show_default=False)
    ],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the runs in SWEEP; finished ones stay, new ones start."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove runs of the same names first.")
    ] = False,
    arch: Annotated[
        str, _listed(f"Of: {', '.join(AUTOENCODERS)}.", AUTOENCODER, "--arch")
    ] = "topk",
    latents: Annotated[str, _listed("Widths of the code.", AUTOENCODER, "--latents")] = "4096",
    k: Annotated[
        str, _listed("Latents active on a row; target_l0 of jumprelu.", AUTOENCODER, "-k")
    ] = "32",
    arch_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=A,B,...",
            help="Values of a further setting, for the architectures that have it; repeated for "
            f"several. {settings_of_architectures()}.",
            rich_help_panel=AUTOENCODER,
        ),
    ] = None,
    seeds: Annotated[
        str, _listed("Of the start of each model; all see the same batches.", TRAINING, "--seeds")
    ] = "0",
    lr: Annotated[
        str | None,
        _listed(
            "Highest learning rates; without it, one that follows the width and the length of the "
            "run.",
            TRAINING,
            "--lr",
        ),
    ] = None,
    hookpoints: Annotated[
        str | None,
        _listed(
            "Which activations to take, from a cache with several hookpoints.", DATA, "--hookpoints"
        ),
    ] = None,
    join: Join = None,
    together: Annotated[
        int | None,
        typer.Option(
            help="Runs that are in memory at a time; without it, all of a hookpoint.",
            rich_help_panel=OTHER,
        ),
    ] = None,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train many autoencoders in one pass over cached activations.

    Every combination of the values is one run, and ends bit for bit as sae train would have ended
    it. A table and a page with the Pareto plot, error over active latents, come at the end.
    """
    with sentences(debug, after_interrupt=lambda: this_command("--resume", drop="--overwrite")):
        chosen = [None] if hookpoints is None else [h.strip() for h in hookpoints.split(",")]
        source: Any = data
        if join:
            if len(chosen) > 1:
                raise ValueError(
                    f"`--hookpoints` must be one at most with --join; got {hookpoints!r}. "
                    "Sweep each of them on its own."
                )
            source, chosen = open_data(data, chosen[0], {}, join), [None]
        grid = Grid(
            architectures=[name.strip() for name in arch.split(",")],
            n_latents=values_of("--latents", latents),
            k=values_of("-k", k),
            seeds=values_of("--seeds", seeds),
            lrs=[None] if lr is None else values_of("--lr", lr),
            hookpoints=chosen,
            options=lists_of(arch_option or []),
        )
        found = run_sweep(
            source,
            grid,
            TrainConfig(**options),
            out_dir=out,
            resume=resume,
            overwrite=overwrite,
            together=together,
        )
    print_runs(f"{len(found.runs)} runs", found.runs)
    print_table("Files", [("Page", str(out / PAGE)), ("Numbers", str(out / SUMMARY))])
    best = min(found.runs, key=lambda run: (run["fvu"] is None, run["fvu"] or 0.0))
    beside = [word for folder in join or [] for word in ("--join", str(folder))]
    run = str(out / best["name"])
    print_next(["sae", "report", run, str(data), *beside, "--out", "report.html"])


def values_of(flag: str, text: str) -> list[Any]:
    """Return the values of a list with commas; brackets and quotes hold together.

    Parameters
    ----------
    flag : str
        Named in the error.
    text : str

    Examples
    --------
    >>> values_of("-k", "16,32")
    [16, 32]
    >>> values_of("--arch-option", "mixed,None,[1, 2]")
    ['mixed', None, [1, 2]]
    """
    values, depth, start = [], 0, 0
    for place, character in enumerate(f"{text},"):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            values.append(text[start:place].strip())
            start = place + 1
    if "" in values:
        raise ValueError(f"`{flag}` must be values separated by commas; got {text!r}.")
    return [_literal(value) for value in values]


def lists_of(entries: Iterable[str]) -> dict[str, list[Any]]:
    """Return ``NAME=A,B`` texts as lists of values.

    Parameters
    ----------
    entries : iterable of str

    Examples
    --------
    >>> lists_of(["l1_coefficient=0.05,0.1", "variant=unit_norm"])
    {'l1_coefficient': [0.05, 0.1], 'variant': ['unit_norm']}
    """
    found = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`--arch-option` must have the form NAME=A,B; got {entry!r}.")
        found[name] = values_of("--arch-option", text)
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
