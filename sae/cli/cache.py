"""``sae cache``: texts in, activations out."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sae.cache import write
from sae.cli.arguments import OTHER, PANELS, PROGRESS, SPEED, TOKENS, Debug, examples
from sae.cli.errors import sentences, this_command
from sae.cli.options import of_function, with_options
from sae.cli.tables import print_next, print_table

OPTIONS = of_function(
    write,
    {
        "context_length": TOKENS,
        "text_column": TOKENS,
        "text_unit": TOKENS,
        "max_tokens": TOKENS,
        "drop_special_tokens": TOKENS,
        "drop_outliers": TOKENS,
        "dtype": SPEED,
        "device": SPEED,
        "batch_size": SPEED,
        "shard_rows": SPEED,
        "progress": SPEED,
        "tokenizer": OTHER,
        "append": OTHER,
        "resume": OTHER,
    },
    kinds={
        "dtype": Literal["float16", "float32", "bfloat16"],
        "tokenizer": str | None,
        "device": str | None,
        "text_unit": Literal["paragraph", "line", "file"],
        "drop_outliers": float | None,
    },
    flags={"drop_special_tokens": ("--drop-special-tokens/--keep-special-tokens",)},
    defaults={"drop_outliers": None},
    helps={
        "drop_outliers": "Leave out rows with a norm above this multiple of the median norm, at "
        "any hookpoint; 10 is a good value. Some models have a few rows of gigantic norm.",
        "tokenizer": "Name or folder of a tokenizer; without it, the model's own.",
        "append": "Add the texts to the finished cache in DIR. Model, hookpoints, dtype and choice "
        "of tokens must be the same as before.",
        "resume": "Go on with an interrupted call, and accept a finished one.",
        "progress": PROGRESS,
        "device": "Where the model runs; without it, the GPU if there is one, else the CPU.",
    },
)


EPILOG = examples(
    "Examples:",
    "sae cache gpt2 book.txt --hookpoints h.6 --out activations",
    "sae cache EleutherAI/pythia-160m *.jsonl.gz --hookpoints 'layers.*.mlp' --out activations",
    "sae cache ./my-bert notes.txt --hookpoints encoder.layer.3,encoder.layer.5 --out acts",
)
EPILOG += "\n\nA call that was interrupted goes on where it stopped when it is made again."


@with_options(OPTIONS, PANELS)
def cache(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Name on the Hugging Face hub, or a folder.", show_default=False
        ),
    ],
    texts: Annotated[
        list[Path],
        typer.Argument(
            metavar="TEXT...", help="Files: .txt or .jsonl, also with .gz.", show_default=False
        ),
    ],
    *,
    hookpoints: Annotated[
        list[str],
        typer.Option(
            metavar="GLOB",
            help="Modules whose outputs are taken, named as in the model: "
            "[cyan]encoder.layer.3[/cyan], [cyan]layers.*.mlp[/cyan]. Repeat it, or use commas.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the cache.", show_default=False)
    ],
    debug: Debug = False,
    **options: Any,
) -> None:
    """Run a transformer over texts and keep its activations.

    Each token becomes one row; `sae train` reads the rows in random order. All hookpoints are
    filled in one pass, and the model is run only as far as the last of them.
    """
    names = [name.strip() for entry in hookpoints for name in entry.split(",") if name.strip()]
    options["drop_outliers"] = options["drop_outliers"] or False
    with sentences(debug, after_interrupt=this_command):
        written = write(model, texts, names, out, **options)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        widths = {name: written.at(name).n_features for name in written.hookpoints}
    rows = [("Rows (tokens)", f"{written.n_rows:,}"), ("Documents", f"{written.n_documents:,}")]
    rows += [(name, f"{width} features") for name, width in widths.items()]
    print_table("Activations", [*rows, ("On disk", f"{size / 1e6:,.1f} MB in {out}")])
    chosen = ["--hookpoint", written.hookpoints[0]] if len(widths) > 1 else []
    print_next(["sae", "train", str(out), *chosen, "--out", "run"])
