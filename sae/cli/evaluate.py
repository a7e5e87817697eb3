"""``sae evaluate``: what an autoencoder is worth on rows it has not seen."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from sae import evaluation
from sae.cli.arguments import (
    DATA,
    OTHER,
    PANELS,
    PROGRESS,
    SUITE,
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
from sae.cli.tables import print_metrics, print_next, print_suite
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
    "sae evaluate run activations --suite core --lm gpt2 --texts book.txt",
    "sae evaluate run activations --suite full --labels labels.npy --other second-run",
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
    suite: Annotated[
        Literal["core", "full"] | None,
        typer.Option(
            help="Measure more, into suite.json of the run: core adds the decoder's coherence and "
            "the loss recovered, full also probes, absorption and stability.",
            rich_help_panel=SUITE,
        ),
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Language model for the loss recovered.", rich_help_panel=SUITE
        ),
    ] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(metavar="TEXT", help="What it reads there.", rich_help_panel=SUITE),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .npy file with a label for each row, for probes; without it, the first letters "
            "of the tokens.",
            rich_help_panel=SUITE,
        ),
    ] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="A run with another seed, for stability.", rich_help_panel=SUITE
        ),
    ] = None,
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
        metrics: dict[str, Any]
        if suite is not None:
            found = evaluation.suite(
                model,
                rows,
                kind=suite,
                lm=lm,
                texts=texts,
                labels=None if labels is None else np.load(labels, allow_pickle=False),
                others=[load(folder) for folder in other or []],
                hookpoint=stored.get("data", {}).get("hookpoint"),
                **options,
            )
            io.write_json(run / "suite.json", found)
            metrics = found["reconstruction"]
        else:
            found = metrics = evaluation.evaluate(model, rows, **options)
        if not stored or (own and usual and metrics["split"] == unseen):
            io.write_json(run / "evaluation.json", metrics)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    names = {"heldout": "Held-out rows", "train": "Training rows", "all": "All rows"}
    print_metrics(f"{names[metrics['split']]} of {data}", metrics)
    if suite is not None:
        print_suite(f"Suite {suite}, in {run / 'suite.json'}", found)
    print_next(["sae", "report", str(run), str(data), "--out", "report.html"])
