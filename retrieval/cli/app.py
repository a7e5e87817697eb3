"""The application: its commands in the order in which one needs them."""

import typer

from retrieval.cli import commands

EPILOG = "\n\n".join(
    [
        "From a BEIR folder to figures:",
        "[dim]$[/dim] retrieval encode encoder/ nfcorpus/ --out documents",
        "[dim]$[/dim] retrieval encode encoder/ nfcorpus/ --queries --out queries",
        "[dim]$[/dim] retrieval index documents --out index",
        "[dim]$[/dim] retrieval search index queries --out run.txt",
        "[dim]$[/dim] retrieval evaluate run.txt nfcorpus/",
    ]
)

app = typer.Typer(
    name="retrieval",
    help="Sparse retrieval: encode, index, search, evaluate, export.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(commands.encode)
app.command()(commands.index)
app.command()(commands.search)
app.command()(commands.evaluate)
app.command("export")(commands.export_rows)


def main() -> None:
    """Run the command line."""
    app(prog_name="retrieval")
