"""Autoencoders in the formats of other libraries, which then give the same codes."""

import json
from collections.abc import Callable
from pathlib import Path

from sae.autoencoders import AbstractAutoencoder
from sae.compat import dictionary_learning, saelens, sparsify
from sae.compat.checkpoint import Checkpoint
from sae.compat.plain import Plain, plain
from sae.compat.recognition import formats_of
from sparsecode import io
from sparsecode._checks import near_matches

WRITERS: dict[str, Callable[[Plain], dict[str, bytes]]] = {
    "saelens": saelens.files,
    "sparsify": sparsify.files,
    "dictionary_learning": dictionary_learning.files,
}
"""By format: the files of a model."""


def export(model: AbstractAutoencoder, path: str | Path, *, format: str) -> Path:  # noqa: A002
    """Write an autoencoder for another library, which gives its codes at inference.

    Parameters
    ----------
    model : AbstractAutoencoder
        Not a `KSparse`, crosscoder or bilinear model, which the others do not have.
    path : path
        Folder of the files, made when missing; for sparsify it is named after the hookpoint.
    format : {"saelens", "sparsify", "dictionary_learning"}
        SAELens from version 6 holds all others; sparsify those with k latents a row;
        dictionary_learning those without normalized rows or skip connection.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    TypeError
        If no other library has such a model.
    ValueError
        If the format cannot hold it.
    FileExistsError
        If the folder holds an autoencoder in another format.

    Examples
    --------
    >>> import tempfile, sae
    >>> model = sae.TopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export(model, folder, format="sparsify")
    ...     (sae.load(folder).W_dec == model.W_dec).all()
    tensor(True)
    """
    if format not in WRITERS:
        raise ValueError(
            f"`format` must be one of {', '.join(WRITERS)}; got {format!r}."
            f"{near_matches(str(format), list(WRITERS))}"
        )
    folder = Path(path)
    _refuse_others(folder, format)
    for name, data in WRITERS[format](plain(model)).items():
        io.write_bytes(folder / name, data)
    return folder


def _refuse_others(folder: Path, format_name: str) -> None:
    """Refuse a folder with an autoencoder that is not an earlier export of the same format."""
    if not folder.is_dir():
        return
    files = Checkpoint.at(folder, {})
    held = [name for name in formats_of(files) if name != format_name]
    config = folder / "config.json"
    if config.is_file() and not formats_of(files):
        try:
            named = json.loads(config.read_text()).get("format", "another format")
        except (ValueError, AttributeError):
            named = "another format"
        held = [str(named)]
    if held:
        raise FileExistsError(
            f"`{folder}` must be empty or hold an export to {format_name}; it holds files of "
            f"{', '.join(held)}. Choose another folder."
        )
