"""``sae explain``: what latents stand for in words, by a language model behind an address."""

from pathlib import Path
from typing import Annotated

import typer

from sae.cli.arguments import (
    DATA,
    OTHER,
    PANELS,
    DataPath,
    Debug,
    Hookpoint,
    Join,
    RunFolder,
    examples,
)
from sae.cli.errors import sentences, this_command
from sae.cli.options import with_options
from sae.cli.runs import open_data, stored_config
from sae.cli.tables import print_table
from sae.files import load
from sae.interpret import ChatEndpoint, EncodedRows, LatentPages
from sae.interpret import explain as explain_latents
from sae.report.page import vocabulary_of

EPILOG = examples(
    "Examples:",
    "sae explain run activations --url http://localhost:8000/v1 --model my-model --out words.jsonl",
    "sae explain run activations --url http://localhost:8000/v1 --model m --latents 3,17,40",
)
EPILOG += "\n\nA call that was interrupted goes on where it stopped when it is made again."


@with_options([], PANELS)
def explain(
    run: RunFolder,
    data: DataPath,
    *,
    url: Annotated[
        str,
        typer.Option(help="A chat endpoint as OpenAI's, up to /v1.", show_default=False),
    ],
    model: Annotated[str, typer.Option(help="Name of the model there.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON lines to write.")] = Path(
        "explanations.jsonl"
    ),
    latents: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Latents to explain; without it, all that fired."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file with the key of the endpoint, if it needs one."),
    ] = None,
    max_rows: Annotated[
        int, typer.Option(help="Look for examples in no more rows.", rich_help_panel=DATA)
    ] = 1_000_000,
    hookpoint: Hookpoint = None,
    join: Join = None,
    seed: Annotated[int, typer.Option(help="Of the passages.", rich_help_panel=OTHER)] = 0,
    debug: Debug = False,
) -> None:
    """Let a language model say what latents stand for, and score what it says.

    The score is the balanced accuracy with which the model tells from its own explanation on which
    passages the latent is active: 0.5 is guessing.
    """
    with sentences(debug, after_interrupt=this_command):
        key = None if key_file is None else key_file.read_text().strip()
        endpoint = ChatEndpoint(url, model, key)
        chosen = None if latents is None else [int(word) for word in latents.split(",")]
        source = open_data(data, hookpoint, stored_config(run), join)
        encoded = EncodedRows(load(run), source, max_rows=max_rows)
        pages = LatentPages(encoded, vocabulary_of(source))
        found = explain_latents(pages, endpoint.ask, out, latents=chosen, seed=seed, progress=None)
    scores = sorted(entry["score"] for entry in found if entry["score"] is not None)
    middle = f"{scores[len(scores) // 2]:.2f}" if scores else "-"
    rows = [("Explained", f"{len(found):,} latents"), ("Median score", middle), ("File", str(out))]
    print_table("Explanations", rows)
