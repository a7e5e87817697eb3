"""From the words of a command line to models and data, with what a run remembers of both."""

import ast
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae.autoencoders import AUTOENCODERS, AbstractAutoencoder
from sae.cache import AbstractSource, Cache, as_source
from sae.cache import join as join_caches
from sae.cache import open as open_cache
from sae.cache.format import MANIFEST, read_manifest
from sae.shapes import sizes_of
from sparsecode import io
from sparsecode._checks import near_matches

Stored = Mapping[str, Any]


def stored_config(run: Path) -> dict[str, Any]:
    """Return ``config.json`` of a run; empty for a folder that only holds an autoencoder."""
    path = run / "config.json"
    return io.read_json(path) if path.is_file() and (run / "model").is_dir() else {}


def open_data(
    path: Path, hookpoint: str | None, stored: Stored, join: Sequence[Path] | None = None
) -> AbstractSource:
    """Open what a command reads, at the hookpoint of the run if none is named.

    Parameters
    ----------
    path : Path
        Folder of a cache, or a ``.npy`` file.
    hookpoint : str or None
    stored : mapping
        ``config.json`` of the run; empty for a new one.
    join : sequence of Path or None, default=None
        Folders of further caches, whose rows are put beside those of the first.
    """
    if join:
        return join_caches([_cache_at(folder, hookpoint) for folder in (path, *join)])
    if hookpoint is None and "data" in stored and (path / MANIFEST).is_file():
        hookpoint = _hookpoint_of(path, stored)
    return as_source(path, hookpoint=hookpoint)


def is_training_data(rows: AbstractSource, stored: Stored) -> bool:
    """Return whether `rows` are those that the run was started with."""
    if "data" not in stored:
        return False
    fraction = stored["train"]["heldout_fraction"]
    side = as_source(rows, split="train" if fraction else None, heldout_fraction=fraction)
    return side.fingerprint == stored["data"]["fingerprint"]


def make_model(
    architecture: str | None,
    source: AbstractSource,
    chosen: Mapping[str, Any],
    defaults: Mapping[str, Any],
    stored: Stored,
) -> AbstractAutoencoder:
    """Return a new autoencoder for `source`.

    Parameters
    ----------
    architecture : str or None
        None takes the one of the run.
    source : AbstractSource
    chosen : mapping
        Settings that the user gave.
    defaults : mapping
        Settings to use where neither the user nor the run has one; those that the architecture does
        not have are left out.
    stored : mapping
        ``config.json`` of the run to go on with; empty for a new one.
    """
    before = stored.get("model", {})
    if architecture is None:
        names = {kind.__name__: name for name, kind in AUTOENCODERS.items()}
        architecture = names.get(before.get("architecture"), "topk")
    if architecture not in AUTOENCODERS:
        raise ValueError(
            f"`--arch` must be one of {', '.join(AUTOENCODERS)}; got {architecture!r}."
            f"{near_matches(architecture, list(AUTOENCODERS))}"
        )
    kind = AUTOENCODERS[architecture]
    accepted = list(inspect.signature(kind).parameters)
    for name in chosen:
        if name not in accepted:
            raise ValueError(
                f"`--arch-option` must name a setting of {architecture}; {name!r} is none."
                f"{near_matches(name, accepted) or ' It has ' + ', '.join(accepted) + '.'}"
            )
    settings = {**defaults, **before, **chosen, **sizes_of(kind, source)}
    return kind(**{name: value for name, value in settings.items() if name in accepted})


def parsed(entries: Iterable[str]) -> dict[str, Any]:
    """Return ``NAME=VALUE`` texts as settings; values are Python literals or else words.

    Examples
    --------
    >>> parsed(["alpha=2.5", "k_start=None", "variant=mixed"])
    {'alpha': 2.5, 'k_start': None, 'variant': 'mixed'}
    """
    settings: dict[str, Any] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`--arch-option` must have the form NAME=VALUE; got {entry!r}.")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings


def _cache_at(path: Path, hookpoint: str | None) -> Cache:
    """Open a cache at its only hookpoint, or at the named one."""
    names = list(read_manifest(path).hookpoints)
    return open_cache(path, names[0] if len(names) == 1 else hookpoint)


def _hookpoint_of(path: Path, stored: Stored) -> str | None:
    """Return the hookpoint whose training rows are those of the run; None if it cannot be told."""
    names = list(read_manifest(path).hookpoints)
    known = stored["data"].get("hookpoint")
    if known is not None and set(known.split("+")) <= set(names):
        return known
    if len(names) == 1:
        return None
    for name in names:
        if is_training_data(as_source(path, hookpoint=name), stored):
            return name
    return None
