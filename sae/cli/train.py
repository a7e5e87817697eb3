"""``sae train``: activations in, an autoencoder out."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from sae.autoencoders import AUTOENCODERS
from sae.cli.arguments import (
    AUTOENCODER,
    DATA,
    LOG,
    NUMERICS,
    PANELS,
    PROGRESS,
    SCHEDULES,
    TRAINING,
    DataPath,
    Debug,
    Hookpoint,
    Join,
    examples,
)
from sae.cli.errors import sentences, this_command
from sae.cli.options import of_fields, with_options
from sae.cli.runs import make_model, open_data, parsed
from sae.cli.tables import print_metrics, print_next, print_table
from sae.trainer import Trainer
from sparsecode import io
from sparsecode.training import TrainConfig

OPTIONS = of_fields(
    TrainConfig,
    {
        "n_steps": TRAINING,
        "batch_size": TRAINING,
        "lr": TRAINING,
        "seed": TRAINING,
        "data_seed": TRAINING,
        "dead_after_tokens": TRAINING,
        "normalize": DATA,
        "heldout_fraction": DATA,
        "warmup_share": SCHEDULES,
        "decay_share": SCHEDULES,
        "k_start": SCHEDULES,
        "k_anneal_share": SCHEDULES,
        "accumulate": NUMERICS,
        "betas": NUMERICS,
        "eps": NUMERICS,
        "max_grad_norm": NUMERICS,
        "optimizer": NUMERICS,
        "precision": NUMERICS,
        "device": NUMERICS,
        "log_every": LOG,
        "eval_every": LOG,
        "eval_rows": LOG,
        "save_every": LOG,
        "progress": LOG,
        "loggers": LOG,
    },
    flags={"n_steps": ("--steps",)},
    kinds={"loggers": list[str]},
    helps={
        "lr": "Highest learning rate; without it, one that follows the width and the length of "
        "the run.",
        "progress": PROGRESS,
    },
    skip=("out_dir",),
)


def settings_of_architectures() -> str:
    """Return what `--arch-option` takes: the settings without an option of their own."""
    own = {"n_features", "n_latents", "k", "seed", "n_targets", "widths"}
    listed = {
        name: [setting for setting in inspect.signature(kind).parameters if setting not in own]
        for name, kind in AUTOENCODERS.items()
    }
    return "; ".join(f"{name}: {', '.join(settings)}" for name, settings in listed.items())


EPILOG = examples(
    "Examples:",
    "sae train activations --out run",
    "sae train activations --latents 16384 -k 64 --steps 20000 --out run",
    "sae train activations --hookpoint h.6 --arch-option aux_coefficient=0.1 --out run",
    "sae train activations --out run --resume",
)


@with_options(OPTIONS, PANELS)
def train(
    context: typer.Context,
    data: DataPath,
    *,
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Folder of the run.", show_default=False)
    ],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the run in RUN from its last checkpoint, with its settings.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove the run in RUN first.")
    ] = False,
    arch: Annotated[
        str,
        typer.Option(help=f"One of: {', '.join(AUTOENCODERS)}.", rich_help_panel=AUTOENCODER),
    ] = "topk",
    latents: Annotated[
        int, typer.Option(help="Width of the code.", rich_help_panel=AUTOENCODER)
    ] = 4096,
    k: Annotated[
        int, typer.Option("-k", help="Latents active on a row.", rich_help_panel=AUTOENCODER)
    ] = 32,
    arch_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help=f"A further setting, repeated for several. {settings_of_architectures()}.",
            rich_help_panel=AUTOENCODER,
        ),
    ] = None,
    hookpoint: Hookpoint = None,
    join: Join = None,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train a sparse autoencoder on cached activations.

    Learning rate and schedules follow the length of the run and the data, so the defaults are
    meant to be good ones. Ctrl-C saves the run, and --resume goes on with it.
    """
    given = {
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    with sentences(debug, after_interrupt=lambda: this_command("--resume", drop="--overwrite")):
        has_run = resume and (out / "config.json").exists()
        stored = io.read_json(out / "config.json") if has_run else {}
        source = open_data(data, hookpoint, stored, join)
        defaults = {"n_latents": latents, "k": k, "seed": options["seed"]}
        flags = {"n_latents": "latents", "k": "k", "seed": "seed"}
        chosen = {name: value for name, value in defaults.items() if flags[name] in given}
        chosen |= parsed(arch_option or [])
        wanted = arch if "arch" in given or not stored else None
        model = make_model(wanted, source, chosen, defaults, stored)
        kept = {name: value for name, value in stored.get("train", {}).items() if name not in given}
        config = TrainConfig(**{**options, **kept, "out_dir": out})
        result = Trainer(model, source, config).fit(resume=resume, overwrite=overwrite)
    if result.evaluation is not None:
        print_metrics("Held-out rows", result.evaluation)
    files = {"Autoencoder": "model", "Metrics": "metrics.jsonl", "Checkpoint": "checkpoint"}
    print_table("Files", [(name, str(out / file)) for name, file in files.items()])
    beside = [word for folder in join or [] for word in ("--join", str(folder))]
    print_next(
        ["sae", "evaluate", str(out), str(data), *beside],
        ["sae", "report", str(out), str(data), *beside, "--out", "report.html"],
    )
