"""``sae push``: an autoencoder onto the Hugging Face hub."""

from typing import Annotated

import typer

from sae import publish
from sae.cli.arguments import Debug, RunFolder, examples
from sae.cli.errors import sentences
from sae.cli.tables import print_table

EPILOG = examples(
    "Examples:",
    "sae push run me/gpt2-autoencoders --dry-run",
    "sae push run me/gpt2-autoencoders --hookpoint h.6",
)


def push(
    run: RunFolder,
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="organization/name on the hub; made when missing.")
    ],
    *,
    hookpoint: Annotated[
        str | None,
        typer.Option(help="Folder in the repository; left out, the hookpoint of the run."),
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch of the repository.")] = "main",
    private: Annotated[
        bool, typer.Option("--private", help="Make a repository that only you can read.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be committed; needs no network.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Put the autoencoder of a run onto the hub, with a page that describes it.

    The page has L0, FVU, the training curve, all settings and where the data come from.
    """
    with sentences(debug):
        done = publish.push(
            run,
            repo,
            hookpoint=hookpoint,
            revision=None if revision == "main" else revision,
            private=private,
            dry_run=dry_run,
        )
    rows = [(name, f"{len(data):,} bytes") for name, data in sorted(done.files.items())]
    rows += [(name, "removed") for name in done.deleted]
    title = f"To {repo}" if done.url else f"To {repo}, if it were not a dry run"
    print_table(title, rows)
    if done.url:
        typer.echo(done.url)
