"""Manifest: what config.json of `sae.save` says, refused where the weights are another thing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae.autoencoders import AUTOENCODERS, AbstractAutoencoder
from sparsecode import io
from sparsecode._checks import near_matches

FORMAT = "sparsecode.sae"
FORMAT_VERSION = 1
CONFIG = "config.json"
DTYPES = ("float32", "float64", "float16", "bfloat16")
FILE = re.compile(r"[^/\\\0]+\.safetensors")  # a name in the same folder
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """A checked configuration.

    Parameters
    ----------
    folder : Path
    architecture : str
        A key of `sae.AUTOENCODERS`.
    config : dict
        Arguments of its constructor.
    dtype : torch.dtype
    file : Path
        The weights, in the folder.
    sha256 : str
    metadata : dict
    """

    folder: Path
    architecture: str
    config: dict[str, Any]
    dtype: torch.dtype
    file: Path
    sha256: str
    metadata: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> "Manifest":
        """Return what a folder says, without a look at the weights.

        Parameters
        ----------
        folder : Path

        Raises
        ------
        FileNotFoundError
            If it is a training that has not finished.
        ValueError
            If it is of another format, version or architecture, or an entry is not of its kind.
        sparsecode.io.CorruptFileError
            If a byte of it is not what was written.
        """
        found = io.read_json(folder / CONFIG)
        _check_format(folder, found)
        architecture = _entry(folder, found, "architecture", str)
        if architecture not in AUTOENCODERS:
            raise ValueError(
                f"`architecture` must be one of {', '.join(sorted(AUTOENCODERS))}; "
                f"got {architecture!r}.{near_matches(architecture, list(AUTOENCODERS))}"
            )
        dtype = _entry(folder, found, "dtype", str)
        if dtype not in DTYPES:
            raise _unfit(folder, f"a `dtype` of {', '.join(DTYPES)}", dtype)
        weights = _entry(folder, found, "weights", dict)
        file, digest = (_entry(folder, weights, name, str) for name in ("file", "sha256"))
        if not FILE.fullmatch(file):
            raise _unfit(folder, "weights in a safetensors file beside it", file)
        if not DIGEST.fullmatch(digest):
            raise _unfit(folder, "the SHA-256 of the weights", digest)
        return cls(
            folder,
            architecture,
            _entry(folder, found, "config", dict),
            getattr(torch, dtype),
            folder / file,
            digest,
            _entry(folder, found, "metadata", dict),
        )

    def made(self, weights: Mapping[str, Tensor]) -> AbstractAutoencoder:
        """Return the model with these weights; one of other sizes is refused before it is made.

        Parameters
        ----------
        weights : mapping of str to Tensor

        Raises
        ------
        ValueError
            If the settings are not those of the architecture, or weights of another model.
        """
        with torch.device("meta"):  # sizes without memory: a configuration may say anything
            shapes = {
                name: part.shape for name, part in self._built(seed=None).state_dict().items()
            }
        for name in sorted(set(shapes) | set(weights)):
            want, got = shapes.get(name), weights[name].shape if name in weights else None
            if want != got:
                sizes = [None if shape is None else tuple(shape) for shape in (want, got)]
                raise ValueError(
                    f"`{self.file}` must hold {name} of shape {sizes[0]}, as {CONFIG} says; got "
                    f"{sizes[1]}. Are the two files of one model?"
                )
        model = self._built()
        model.load_state_dict(dict(weights))
        model.metadata = self.metadata
        return model.to(dtype=self.dtype)

    def _built(self, **changed: Any) -> AbstractAutoencoder:
        """Return a new model of the configuration."""
        kind = AUTOENCODERS[self.architecture]
        changed = {name: value for name, value in changed.items() if name in self.config}
        try:
            return kind(**{**self.config, **changed})
        except (TypeError, ValueError, RuntimeError) as error:
            fact = str(error).partition("\n")[0]
            raise ValueError(
                f"`{self.folder / CONFIG}` must hold the settings of {kind.__name__}; {fact}"
            ) from None


def _check_format(folder: Path, found: Mapping[str, Any]) -> None:
    if found.get("format") == "sparsecode.run":
        raise FileNotFoundError(
            f"`{folder}` must hold a trained autoencoder; its training has not finished. "
            "Go on with it first (resume)."
        )
    if found.get("format") != FORMAT or found.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"`{folder}` must be of format {FORMAT} version {FORMAT_VERSION}; "
            f"got {found.get('format')!r} version {found.get('format_version')!r}."
        )


def _entry(folder: Path, found: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return an entry of the right type; metadata may be missing."""
    value = found.get(name)
    value = {} if value is None and name == "metadata" else value
    if not isinstance(value, kind):
        raise _unfit(folder, f"an entry {name!r} of type {kind.__name__}", value)
    return value


def _unfit(folder: Path, what: str, got: Any) -> ValueError:
    return ValueError(f"`{folder / CONFIG}` must have {what}; got {str(got)[:100]!r}.")
