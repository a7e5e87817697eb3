"""Autoencoders on disk: ``config.json`` and ``weights-<digest>.safetensors`` in one folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sae import compat
from sae.autoencoders import AUTOENCODERS, AbstractAutoencoder
from sae.compat.weights import read_safetensors
from sae.manifest import CONFIG, FORMAT, FORMAT_VERSION, Manifest
from sae.remote import located, located_many
from sparsecode import io


def save(
    model: AbstractAutoencoder, folder: str | Path, *, metadata: dict[str, Any] | None = None
) -> Path:
    """Write an autoencoder to a folder, atomically.

    Parameters
    ----------
    model : AbstractAutoencoder
    folder : path
        Made when missing; an autoencoder that is there already is replaced.
    metadata : dict or None, default=None
        Anything ready for JSON that belongs to the model: hookpoint, data, metrics. It is added to
        ``model.metadata``.

    Returns
    -------
    Path
        The folder.
    """
    names = {cls: name for name, cls in AUTOENCODERS.items()}
    if type(model) not in names:
        raise TypeError(
            f"`model` must be one of {', '.join(sorted(AUTOENCODERS))}; "
            f"got {type(model).__name__}. "
            "Add its class to sae.autoencoders.AUTOENCODERS."
        )
    folder = Path(folder)
    io.refuse_foreign(folder, FORMAT, "an autoencoder")
    io.write_model(
        folder,
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": names[type(model)],
            "config": model.config(),
            "dtype": str(model.b_dec.dtype).removeprefix("torch."),
            "metadata": {**model.metadata, **(metadata or {})},
        },
        model.state_dict(),
    )
    return folder


def load(
    folder: str | Path,
    *,
    hookpoint: str | None = None,
    revision: str | None = None,
    given: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> AbstractAutoencoder:
    """Read an autoencoder that `save`, a training run or another library wrote.

    Formats are recognized by their files: ours, SAELens (before and after version 6), sparsify,
    dictionary_learning, OpenAI, Gemma Scope, Llama Scope, and Bussmann's BatchTopK and Matryoshka.
    What changes the meaning of the weights is read from the files, and refused if it is not known.

    Parameters
    ----------
    folder : path
        A folder with an autoencoder, a training run, whose ``model`` folder is then taken, the file
        with the weights of another library, or ``organization/name`` of a repository on the hub.
    hookpoint : str or None, default=None
        The folder in it, where it holds several autoencoders.
    revision : str or None, default=None
        Branch, tag or commit on the hub.
    given : dict or None, default=None
        What files of others leave out or leave open: "input_scale" (that rows are multiplied by),
        "target_scale", "threshold", "transcoder" (whether Gemma Scope's arrays are one),
        "normalize_decoder" (whether an ``AutoEncoder`` of dictionary_learning gets decoder rows of
        unit norm, as ``load_dictionary`` gives it, which scales its codes).
    device : device, default="cpu"
    dtype : dtype or None, default=None
        None keeps the stored one.

    Returns
    -------
    AbstractAutoencoder
        In evaluation mode; ``metadata`` says where it comes from.

    Raises
    ------
    FileNotFoundError
        If the folder holds no autoencoder, or the hub no such repository, revision or file.
    ConnectionError
        If the hub cannot be reached and the files are not on this machine.
    sparsecode.io.CorruptFileError
        If a byte of it is not what was written, or a file of others holds more than plain values.
    ValueError
        If it is of another format, version or architecture, or says what is not known.
    """
    path = located_model(folder, hookpoint, revision)
    ours = is_ours(path)
    if ours and given:
        raise ValueError(
            f"`given` must be empty for what sae.save wrote, which says everything; got {given}."
        )
    model = _load_ours(path) if ours else compat.build(compat.read(path, given or {}))
    return model.to(device=device, dtype=dtype).eval()


def located_model(folder: str | Path, hookpoint: str | None, revision: str | None) -> Path:
    """Return where the autoencoder lies that `load` would read."""
    path = located(folder, hookpoint, revision)
    return path / "model" if (path / "model" / CONFIG).is_file() else path


def load_many(
    folder: str | Path,
    pattern: str = "*",
    *,
    revision: str | None = None,
    given: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> dict[str, AbstractAutoencoder]:
    """Read the autoencoders of all folders that match a pattern, such as those of all layers.

    Parameters
    ----------
    folder : path
        A folder, or ``organization/name`` of a repository on the hub.
    pattern : str, default="*"
        As in file names, for the path of each folder: ``layers.[0-3].*``.
    revision : str or None, default=None
    given : dict or None, default=None
    device : device, default="cpu"
    dtype : dtype or None, default=None
        As in `load`.

    Returns
    -------
    dict of str to AbstractAutoencoder
        By folder, in natural order.

    Raises
    ------
    FileNotFoundError
        If no folder with an autoencoder matches.
    """
    paths = located_many(folder, pattern, revision)
    options = {"given": given, "device": device, "dtype": dtype}
    return {name: load(path, **options) for name, path in paths.items()}


def is_ours(folder: Path) -> bool:
    """Whether a folder has our configuration, or one that cannot be read."""
    if not (folder / CONFIG).is_file():
        return False
    try:
        name = json.loads((folder / CONFIG).read_text()).get("format")
    except (ValueError, AttributeError, RecursionError):
        return True
    named = isinstance(name, str) and name.startswith("sparsecode.")
    return named or any(folder.glob("weights-*.safetensors"))  # as `save` calls them


def stored_here(folder: Path) -> compat.Stored:
    """Return what `save` wrote, its tensors still in their file and not compared with a checksum.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    sae.compat.Stored
    """
    found = Manifest.of(folder)
    tensors = read_safetensors(found.file)
    return compat.Stored(found.architecture, found.config, tensors, found.metadata)


def _load_ours(folder: Path) -> AbstractAutoencoder:
    """Return the autoencoder that `save` wrote, in its dtype."""
    found = Manifest.of(folder)
    return found.made(io.load_tensors(found.file, sha256=found.sha256))
