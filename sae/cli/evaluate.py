"""``sae evaluate``: what an autoencoder is worth on rows it has not seen."""

import json
from typing import Annotated, Any

import typer

from sae import evaluation
from sae.cli.arguments import (
    DATA,
    OTHER,
    PANELS,
    PROGRESS,
    DataPath,
    Debug,
    Hookpoint,
    Join,
    RunFolder,
    examples,
)
from sae.cli.errors import sentences, this_command
from sae.cli.options import of_function, with_options
from sae.cli.runs import is_training_data, open_data, stored_config
from sae.cli.tables import print_metrics, print_next
from sae.files import load
from sparsecode import io

OPTIONS = of_function(
    evaluation.evaluate,
    {
        "split": DATA,
        "heldout_fraction": DATA,
        "max_rows": DATA,
        "budgets": OTHER,
        "method": OTHER,
        "batch_size": OTHER,
        "progress": OTHER,
    },
    kinds={"heldout_fraction": float | None, "budgets": list[int] | None},
    defaults={"heldout_fraction": None, "progress": None},
    helps={
        "heldout_fraction": "Share that is held out; without it, that of the training.",
        "progress": PROGRESS,
    },
)


EPILOG = examples(
    "Examples:",
    "sae evaluate run activations",
    "sae evaluate run other-activations --split all --json",
)


@with_options(OPTIONS, PANELS)
def evaluate(
    run: RunFolder,
    data: DataPath,
    *,
    hookpoint: Hookpoint = None,
    join: Join = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.", rich_help_panel=OTHER)
    ] = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Measure a trained autoencoder on rows it has not seen.

    On the data of the training these are the rows that were held out there, and the result is
    also written into the run, as evaluation.json. Of other data, a cache has held-out documents,
    and a .npy file is measured whole.
    """
    with sentences(debug, after_interrupt=this_command):
        stored = stored_config(run)
        model, rows = load(run), open_data(data, hookpoint, stored, join)
        fraction = stored.get("train", {}).get("heldout_fraction", 0.1)
        own, unseen = is_training_data(rows, stored), "heldout" if fraction else "all"
        if options["split"] == "auto" and (own or fraction == 0):
            options["split"] = unseen
        usual = options["heldout_fraction"] in (None, fraction) and not options["max_rows"]
        usual &= options["method"] == "encoder"
        if options["heldout_fraction"] is None:
            options["heldout_fraction"] = fraction
        metrics = evaluation.evaluate(model, rows, **options)
        if not stored or (own and usual and metrics["split"] == unseen):
            io.write_json(run / "evaluation.json", metrics)
    if as_json:
        typer.echo(json.dumps(metrics, indent=1))
        return
    names = {"heldout": "Held-out rows", "train": "Training rows", "all": "All rows"}
    print_metrics(f"{names[metrics['split']]} of {data}", metrics)
    print_next(["sae", "report", str(run), str(data), "--out", "report.html"])
