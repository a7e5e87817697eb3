"""The application: its commands in the order in which one needs them."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from sae.cli import cache, dashboard, evaluate, explain, export, push, report, sweep, train
from sae.cli.arguments import examples

app = typer.Typer(
    name="sae",
    help="Sparse autoencoders on the activations of a transformer.",
    epilog=examples(
        "From a text to a page that shows what every latent stands for:",
        "sae cache gpt2 book.txt --hookpoints h.6 --out activations",
        "sae train activations --latents 4096 -k 32 --steps 1000 --out run",
        "sae evaluate run activations",
        "sae report run activations --out report.html",
        "sae dashboard run activations --out dashboard",
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.command(epilog=cache.EPILOG)(cache.cache)
app.command(epilog=train.EPILOG)(train.train)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=report.EPILOG)(report.report)
app.command(epilog=dashboard.EPILOG)(dashboard.dashboard)
app.command(epilog=explain.EPILOG)(explain.explain)
app.command(epilog=sweep.EPILOG)(sweep.sweep)
app.command(epilog=export.EPILOG)(export.export)
app.command(epilog=push.EPILOG)(push.push)


def main() -> None:
    """Run the command line."""
    app(prog_name="sae")


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            version = version_of("sparsecode")
        except PackageNotFoundError:
            version = "of unknown version: it is not installed as a package"
        typer.echo(f"sparsecode {version}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version  # its callback has done everything
