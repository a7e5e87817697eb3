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
from sparsecode._checks import check_float

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

GIVEN = {
    "saelens": {"input_scale"},
    "dictionary_learning": {"normalize_decoder"},
    "bussmann": {"threshold"},
    "gemma_scope": {"input_scale", "transcoder"},
    "llama_scope": {"input_scale", "target_scale"},
}
"""What the files of a format may leave out, or leave open."""

FLAGS = {"normalize_decoder", "transcoder"}


def formats_of(files: Checkpoint) -> list[str]:
    """Return the formats whose files these may be."""
    found = [name for name, (recognizes, _) in READERS.items() if recognizes(files)]
    # OpenAI's one file has no name of its own; beside another format it is a state of its training.
    return [name for name in found if name != "openai"] or found


def read(path: Path, given: Mapping[str, Any]) -> Stored:
    """Return what a checkpoint of another library holds.

    Parameters
    ----------
    path : Path
        Its folder, or its file with the weights.
    given : mapping
        What the files leave out, or leave open; see `GIVEN`.

    Returns
    -------
    Stored

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint of a known format.
    ValueError
        If it could be of two formats, what it says is not known, or something is given that its
        format does not leave open.
    """
    files = Checkpoint.at(path, _checked(given))
    found = formats_of(files)
    if not found:
        raise FileNotFoundError(_nothing_known(path, files))
    if len(found) > 1:
        raise ValueError(
            f"`{path}` must hold one autoencoder; its files are those of {' and of '.join(found)}. "
            "Name the file with the weights."
        )
    not_open = sorted(set(given) - GIVEN.get(found[0], set()))
    if not_open:
        raise ValueError(
            f"`given` must hold what the files leave open; those of {found[0]} say everything "
            f"about {', '.join(not_open)}. Leave it out."
        )
    return READERS[found[0]][1](files)


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the caller says, each in its type."""
    known = sorted(set().union(*GIVEN.values()))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"`given` must hold {', '.join(known)} only; got {', '.join(unknown)}.")
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name in FLAGS:
            if not isinstance(value, bool):
                raise TypeError(f"`given[{name!r}]` must be True or False; got {value!r}.")
            checked[name] = value
        elif name == "threshold":
            checked[name] = check_float(name, value, low=0.0)
        else:
            checked[name] = check_float(name, value, low=0.0, open_low=True)
    return checked


def _nothing_known(path: Path, files: Checkpoint) -> str:
    if not path.exists():
        found = "which does not exist"
    else:
        found = f"which holds {', '.join(sorted(files.names)[:8]) or 'no files'}"
    return (
        f"`folder` must be what sae.save or a finished training run wrote, or a checkpoint of "
        f"{', '.join(READERS)}; got {path}, {found}."
    )
