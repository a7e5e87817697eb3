"""What a run comes to in words and numbers: heading, cards, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sae.autoencoders import AbstractAutoencoder
from sae.cache import AbstractSource, Cache, JoinedSource
from sae.evaluation import evaluate
from sae.interpret.browser import unpack
from sparsecode import io

HIDDEN = ("format", "format_version", "run_id")


@dataclass(frozen=True)
class Run:
    """All that a report is made from, beside the latents.

    Parameters
    ----------
    model : AbstractAutoencoder
    source : AbstractSource
        The rows that examples come from.
    config : mapping
        ``config.json`` of the run; empty if there is none.
    metrics : sequence of dict
        Rows of ``metrics.jsonl``; empty if there are none.
    evaluation : mapping
        What `sae.evaluate` returned.
    """

    model: AbstractAutoencoder
    source: AbstractSource
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]


def facts(run: Run) -> list[str]:
    """Return what was trained on what: the heading first, then short facts."""
    model = run.model
    kind, found = type(model).__name__, []
    if isinstance(run.source, (Cache, JoinedSource)):
        heading = f"{kind} on {_model_name(run.source)}, {run.source.hookpoint}"
    else:
        heading = f"{kind} on an array of activations"
    found.append(f"{model.n_latents:,} latents")
    k = model.config().get("k")
    if k is not None:
        found.append(f"k = {k}")
    found.append(f"{model.n_features:,} features")
    last = _last(run.metrics)
    if last:
        found += [f"{last['step']:,} steps", f"{_short(last['tokens'])} tokens"]
    return [heading, *found]


def evaluation_of(
    folder: Path, model: AbstractAutoencoder, source: AbstractSource
) -> dict[str, Any]:
    """Return what `sae.evaluate` found for a run, now if it was not asked before.

    Parameters
    ----------
    folder : Path
    model : AbstractAutoencoder
    source : AbstractSource
    """
    path = folder / "evaluation.json"
    return io.read_json(path) if path.exists() else evaluate(model, source)


def lead(run: Run) -> str:
    """Return the result in one sentence."""
    found = run.evaluation
    which = "held-out tokens" if found.get("split") == "heldout" else "tokens"
    return (
        f"On {found['n_rows']:,} {which} the autoencoder explains "
        f"{found['explained_variance']:.1%} of the variance with {found['l0']:.1f} of "
        f"{run.model.n_latents:,} latents active on a token."
    )


def cards(run: Run, latents: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the headline numbers, each with its name and what it means.

    Parameters
    ----------
    run : Run
    latents : mapping
        What `sae.interpret.browser_data` returned.
    """
    found, model = run.evaluation, run.model
    never = int((unpack(latents["count"]) == 0).sum())
    split = "held-out tokens" if found.get("split") == "heldout" else "tokens"
    entries = [
        ("FVU", f"{found['fvu']:.4f}", f"fraction of variance unexplained, {split}"),
        ("Explained variance", f"{found['explained_variance']:.1%}", "1 - FVU"),
        ("L0", f"{found['l0']:.1f}", f"latents active on a token, of {model.n_latents:,}"),
        ("Cosine", f"{found['cosine']:.4f}", "of a row and its reconstruction"),
        (
            "Never fired",
            f"{never / model.n_latents:.1%}",
            f"{never:,} latents, on all of {latents['n_rows']:,} tokens",
        ),
        ("Dense", f"{found['dense_fraction']:.1%}", "latents that fire on over 10% of tokens"),
    ]
    last = _last(run.metrics)
    if last:
        passes = f"{last['tokens'] / max(1, run.source.n_rows):.1f} times the cache"
        entries.append(("Training tokens", _short(last["tokens"]), passes))
        entries.append(("Training time", _duration(run.metrics), _speed(run.metrics)))
    keys = ("name", "value", "note")
    shown = [dict(zip(keys, entry, strict=True)) for entry in entries if entry[1]]
    return [{**card, "main": card["name"] == "FVU"} for card in shown]


def settings(run: Run) -> list[dict[str, Any]]:
    """Return all settings in groups of names and values."""
    data: list[tuple[str, Any]] = [
        ("rows", f"{run.source.n_rows:,}"),
        ("features", run.source.n_features),
        ("dtype", str(run.source.dtype).removeprefix("torch.")),
    ]
    versions = [(name, _version(name)) for name in ("sparsecode", "torch", "numpy", "plotly")]
    if isinstance(run.source, (Cache, JoinedSource)):
        data = [("model", _model_name(run.source)), ("hookpoint", run.source.hookpoint), *data]
        data.append(("documents", f"{run.source.n_documents:,}"))
        data += _flat({"provenance": run.source.provenance})
    groups = [
        ("Autoencoder", [("architecture", type(run.model).__name__), *_flat(run.model.config())]),
        ("Training", _flat(run.config.get("train", {}))),
        ("Data", data),
        ("Versions", versions),
    ]
    return [{"name": name, "entries": entries} for name, entries in groups if entries]


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as ``a.b`` names; of folders of this machine only the last part."""
    found = []
    for name, entry in value.items():
        if isinstance(entry, Mapping):
            found += _flat(entry, f"{prefix}{name}.")
        elif name not in HIDDEN:
            text = "" if entry is None else str(entry)
            is_path = isinstance(entry, str) and Path(entry).is_absolute()
            found.append((f"{prefix}{name}", Path(text).name if is_path else text or "default"))
    return found


def _model_name(cache: Cache | JoinedSource) -> str:
    name = str(cache.provenance.get("model", {}).get("name", "a transformer"))
    is_folder = Path(name).is_absolute() or name.startswith(".")
    return "/".join(Path(name).parts[-2:]) if is_folder else name


def _last(metrics: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return metrics[-1] if metrics else None


def _duration(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Return the time that the steps took, from the clock of the log."""
    seconds = max((row["wall_time"] for row in metrics if "wall_time" in row), default=0.0)
    if not seconds:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _speed(metrics: Sequence[Mapping[str, Any]]) -> str:
    speeds = sorted(row["tokens_per_second"] for row in metrics if "tokens_per_second" in row)
    return f"{speeds[len(speeds) // 2]:,.0f} tokens per second" if speeds else ""


def _short(number: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scale = 1e3 if unit == "k" else limit
            return f"{number / scale:.3g}{unit}"
    return f"{number:,.0f}"


def _version(package: str) -> str:
    if package == "torch":
        return str(torch.__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
