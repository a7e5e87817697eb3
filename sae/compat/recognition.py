"""Which library wrote a checkpoint: told by its files, refused where two could have."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sae.compat import (
    bussmann,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    openai,
    saelens,
    sparsify,
)
from sae.compat.checkpoint import Checkpoint
from sae.compat.stored import Stored

READERS: dict[str, tuple[Callable[[Checkpoint], bool], Callable[[Checkpoint], Stored]]] = {
    "saelens": (saelens.recognizes, saelens.read),
    "sparsify": (sparsify.recognizes, sparsify.read),
    "dictionary_learning": (dictionary_learning.recognizes, dictionary_learning.read),
    "bussmann": (bussmann.recognizes, bussmann.read),
    "gemma_scope": (gemma_scope.recognizes, gemma_scope.read),
    "llama_scope": (llama_scope.recognizes, llama_scope.read),
    "openai": (openai.recognizes, openai.read),
}
"""By format: whether some files are of it, and what they hold."""

GIVEN = {"input_scale", "target_scale", "threshold", "transcoder"}


def formats_of(files: Checkpoint) -> list[str]:
    """Return the formats whose files these may be."""
    return [name for name, (recognizes, _) in READERS.items() if recognizes(files)]


def read(path: Path, given: Mapping[str, Any]) -> Stored:
    """Return what a checkpoint of another library holds.

    Parameters
    ----------
    path : Path
        Its folder, or its file with the weights.
    given : mapping
        What the files leave out: "input_scale", "target_scale", "threshold", "transcoder".

    Returns
    -------
    Stored

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint of a known format.
    ValueError
        If it could be of two formats, or what it says is not known.
    """
    unknown = sorted(set(given) - GIVEN)
    if unknown:
        raise ValueError(
            f"`given` must hold {', '.join(sorted(GIVEN))} only; got {', '.join(unknown)}."
        )
    files = Checkpoint.at(path, given)
    found = formats_of(files)
    if not found:
        raise FileNotFoundError(_nothing_known(path, files))
    if len(found) > 1:
        raise ValueError(
            f"`{path}` must hold one autoencoder; its files are those of {' and of '.join(found)}. "
            "Name the file with the weights."
        )
    return READERS[found[0]][1](files)


def _nothing_known(path: Path, files: Checkpoint) -> str:
    listed = ", ".join(sorted(files.names)[:8]) or "no files"
    return (
        f"`{path}` must be what sae.save or a finished training run wrote, or a checkpoint of "
        f"{', '.join(READERS)}; it holds no config.json of an autoencoder and no files of those "
        f"formats (it has {listed})."
    )
