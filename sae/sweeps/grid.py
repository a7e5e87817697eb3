"""Grid: the autoencoders of a sweep, as lists of values for each setting."""

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sae.autoencoders import AUTOENCODERS
from sparsecode._checks import check_float, check_int, near_matches

OWN = ("n_features", "n_latents", "k", "seed", "n_targets", "widths")


@dataclass(frozen=True)
class Member:
    """One autoencoder of a sweep.

    Parameters
    ----------
    name : str
        Of its folder; the same in every sweep that has this member.
    architecture : str
        A key of `sae.AUTOENCODERS`.
    settings : dict
        Of the architecture, beside what the data decide.
    seed : int
    lr : float or None
    hookpoint : str or None
    """

    name: str
    architecture: str
    settings: dict[str, Any]
    seed: int
    lr: float | None
    hookpoint: str | None


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values to try; a sweep has every combination, each once.

    A setting that an architecture does not have is left out for it, so one grid serves several
    architectures.
    """

    architectures: Sequence[str] = ("topk",)
    """Keys of `sae.AUTOENCODERS`."""

    n_latents: Sequence[int] = (4096,)
    """Widths of the code."""

    k: Sequence[int] = (32,)
    """Numbers of active latents; the ``target_l0`` of an architecture that has one instead."""

    seeds: Sequence[int] = (0,)
    """Of the start of each model; the order of the rows is the same for all."""

    lrs: Sequence[float | None] = (None,)
    """Highest learning rates; None takes that of the training settings."""

    hookpoints: Sequence[str | None] = (None,)
    """Of a cache with several; None takes the only one."""

    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values of further settings of the architectures."""

    def __post_init__(self) -> None:
        """Check that every list has values, and every name is known."""
        for name in ("architectures", "n_latents", "k", "seeds", "lrs", "hookpoints"):
            values = _listed(name, getattr(self, name))
            object.__setattr__(self, name, values)
        options = {name: _listed(name, values) for name, values in self.options.items()}
        object.__setattr__(self, "options", options)
        for name in self.architectures:
            if name not in AUTOENCODERS:
                raise ValueError(
                    f"`architectures` must be among {', '.join(AUTOENCODERS)}; got {name!r}."
                    f"{near_matches(str(name), list(AUTOENCODERS))}"
                )
        for name, low in (("n_latents", 1), ("k", 1), ("seeds", 0)):
            for value in getattr(self, name):
                check_int(name, value, low=low)
        for rate in self.lrs:
            if rate is not None:
                check_float("lrs", rate, low=0.0, open_low=True)
        known = {name for kind in self.architectures for name in _settings_of(kind)}
        for name in self.options:
            if name not in known or name in OWN:
                free = sorted(known - set(OWN))
                raise ValueError(
                    "`options` must name settings of one of the architectures; "
                    f"{name!r} is none.{near_matches(name, free)}"
                )

    def members(self) -> list[Member]:
        """Return the autoencoders of the sweep, those of a hookpoint together."""
        found: dict[str, Member] = {}
        for member in self._combinations():
            found.setdefault(member.name, member)
        return list(found.values())

    def _combinations(self) -> Iterator[Member]:
        axes = (self.hookpoints, self.architectures, self.n_latents, self.k, self.lrs, self.seeds)
        for hookpoint, kind, n_latents, k, lr, seed in itertools.product(*axes):
            accepted = _settings_of(kind)
            chosen = {name: self.options[name] for name in self.options if name in accepted}
            for values in itertools.product(*chosen.values()):
                options = dict(zip(chosen, values, strict=True))
                sizes = {"n_latents": n_latents, "k": k, "target_l0": k, "seed": seed}
                sizes = {name: value for name, value in sizes.items() if name in accepted}
                settings = {**sizes, **options}
                name = _name_of(hookpoint, kind, settings, options, seed, lr)
                yield Member(name, kind, settings, seed, lr, hookpoint)


def _settings_of(architecture: str) -> list[str]:
    return list(inspect.signature(AUTOENCODERS[architecture]).parameters)


def _listed(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not len(values):
        raise ValueError(f"`{name}` must be a list of at least one value; got {values!r}.")
    return tuple(values)


def _name_of(
    hookpoint: str | None,
    architecture: str,
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    seed: int,
    lr: float | None,
) -> str:
    """Return the name of a folder that says everything that can differ between members."""
    parts = [] if hookpoint is None else [hookpoint]
    parts += [architecture, str(settings["n_latents"])]
    k = settings.get("k", settings.get("target_l0"))
    parts += [] if k is None else [f"k{k}"]
    parts += [f"seed{seed}"]
    parts += [] if lr is None else [f"lr{lr:g}"]
    parts += [f"{name}={value}" for name, value in options.items() if name != "target_l0"]
    return re.sub(r"[^A-Za-z0-9._=+-]", "_", "-".join(parts))
