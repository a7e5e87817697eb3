"""What commands print at their end: tables for people, readable in a file too."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

FILE_WIDTH = 240
METRICS = {
    "fvu": ("FVU", "{:.4f}", "fraction of variance unexplained; lower is better"),
    "explained_variance": ("Explained variance", "{:.2%}", "1 - FVU"),
    "mse": ("Squared error", "{:.4g}", "mean over rows of the sum over features"),
    "cosine": ("Cosine", "{:.4f}", "of a row and its reconstruction"),
    "l0": ("L0", "{:.2f}", "latents active on a row"),
    "dead_fraction": ("Dead", "{:.2%}", "latents that fired on none of these rows"),
    "dense_fraction": ("Dense", "{:.2%}", "latents that fired on over 10% of these rows"),
    "n_rows": ("Rows", "{:,}", "that were evaluated"),
}


def print_metrics(title: str, metrics: Mapping[str, Any]) -> None:
    """Print the numbers of `sae.evaluate`, each with what it means."""
    rows = [
        (name, form.format(metrics[key]), note)
        for key, (name, form, note) in METRICS.items()
        if key in metrics
    ]
    rows += [
        (f"FVU at k={k}", f"{fvu:.4f}", "with no more latents than this on a row")
        for k, fvu in metrics.get("fvu_at_k", {}).items()
    ]
    rows += [
        (f"FVU at hookpoint {number}", f"{fvu:.4f}", f"{share:.1%} of the decoder norm")
        for number, (fvu, share) in enumerate(
            zip(
                metrics.get("fvu_at_hookpoint", []),
                metrics.get("decoder_share_at_hookpoint", []),
                strict=True,
            )
        )
    ]
    print_table(title, rows)


SUITE = {
    "dictionary": {
        "coherence": ("Coherence", "largest cosine between two decoder rows"),
        "mean_largest_cosine": ("Nearest cosine", "of a decoder row, mean"),
    },
    "loss": {
        "loss_recovered": ("Loss recovered", "against zero ablation"),
        "loss_recovered_mean": ("Loss recovered", "against mean ablation"),
        "ce_original": ("Cross-entropy", "of the model as it is, nats per token"),
        "ce_reconstruction": ("Cross-entropy", "with the reconstruction"),
        "ce_zero": ("Cross-entropy", "with zeros"),
        "ce_mean": ("Cross-entropy", "with the mean activation"),
        "kl": ("KL divergence", "from the original distribution"),
        "cosine_reconstruction": ("Output cosine", "with the reconstruction"),
        "cosine_zero": ("Output cosine", "with zeros"),
    },
    "probing": {
        "accuracy_codes": ("Probe on codes", "accuracy on all latents"),
        "accuracy_activations": ("Probe on activations", "accuracy"),
        "accuracy_majority": ("Most frequent label", "accuracy"),
    },
    "absorption": {"absorption_rate": ("Absorption", "share of a class that others speak for")},
    "stability": {
        "mean_cosine": ("Matched cosine", "of latents of other seeds"),
        "shared": ("Shared latents", "with a cosine of 0.7 or more"),
    },
}


def print_suite(title: str, found: Mapping[str, Any]) -> None:
    """Print what `sae.evaluation.suite` measured beside the reconstruction, and what it did not."""
    rows = [
        (name, f"{found[part][key]:.4f}", note)
        for part, entries in SUITE.items()
        for key, (name, note) in entries.items()
        if found.get(part, {}).get(key) is not None
    ]
    rows += [
        (
            f"Probe on {k} latent{'s' if int(k) > 1 else ''}",
            f"{value:.4f}",
            "balanced accuracy, mean over classes",
        )
        for k, value in found.get("probing", {}).get("accuracy_at_k", {}).items()
    ]
    rows += [
        (part.capitalize(), "-", f"not measured: it needs {need}")
        for part, need in found["left_out"].items()
    ]
    print_table(title, rows)


def print_runs(title: str, runs: Iterable[Mapping[str, Any]]) -> None:
    """Print the runs of a sweep, the smallest error first, and which are on the front."""
    rows: list[tuple[str, ...]] = [("Run", "FVU", "L0", "Dead", "")]
    known = sorted(runs, key=lambda run: (run["fvu"] is None, run["fvu"] or 0.0))
    for run in known:
        if run["failure"] is not None:
            rows.append((run["name"], "", "", "", run["failure"]))
            continue
        numbers = (f"{run['fvu']:.4f}", f"{run['l0']:.2f}", f"{run['dead_fraction']:.1%}")
        rows.append((run["name"], *numbers, "on the front" if run["front"] else ""))
    print_table(title, rows)


def print_table(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows of a name, a value and perhaps a note."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE, show_header=False
    )
    rows = list(rows)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", overflow="fold")
    for _ in range(max((len(row) for row in rows), default=0) - 2):
        table.add_column(style="dim")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)  # a file has no edge at which paths must be cut
    console.print(table)


def print_next(*commands: list[str]) -> None:
    """Print what one would run next."""
    import typer

    typer.echo("Next:")
    for command in commands:
        typer.echo(f"  {shlex.join(command)}")
