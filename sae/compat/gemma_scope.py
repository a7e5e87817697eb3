"""Gemma Scope: ``params.npz``; in its second form ``params.safetensors`` and ``config.json``."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from sae.compat.checkpoint import Checkpoint
from sae.compat.stored import (
    SCALED,
    Stored,
    setting,
    taken,
    unreadable,
    with_input_scale,
)
from sae.compat.weights import read_npz, read_safetensors

CONFIG, WEIGHTS = "config.json", "params.safetensors"
NAMES = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
SKIP = "affine_skip_connection"
PUBLISHED = re.compile("gemma-scope.*transcoder")  # the only place where the publisher says it
ARCHIVED = "they lie in an archive of NumPy, of which no part can be read alone"


def recognizes(files: Checkpoint) -> bool:
    """Whether there is one NumPy archive, or the two files of the second form."""
    return len(files.ending(".npz")) == 1 or {CONFIG, WEIGHTS} <= files.names


def read(files: Checkpoint) -> Stored:
    """Return the JumpReLU autoencoder or transcoder; neither subtracts a bias from its input.

    The archives of the first form look the same for both. They are read as a transcoder where the
    two widths differ, where ``given`` says ``{"transcoder": True}``, or where a folder is named as
    the repository is, such as ``gemma-scope-2b-pt-transcoders``; else as an autoencoder, which has
    the same codes and outputs. Those of embeddings are for rows of the embedding matrix;
    ``{"input_scale": d ** -0.5}`` makes them ones for rows that the model has multiplied by
    ``d ** 0.5``.

    Raises
    ------
    ValueError
        If an array is missing or unknown, or decodes to several layers.
    """
    second = {CONFIG, WEIGHTS} <= files.names
    name = WEIGHTS if second else files.ending(".npz")[0]
    path = files.path(name)
    raw = read_safetensors(path) if second else read_npz(path)
    values = {_renamed(key): value for key, value in raw.items()}
    config = files.json(CONFIG) if second else {}
    if second and config.get("architecture") != "jump_relu":
        raise unreadable(
            str(files.path(CONFIG)),
            f"the architecture {config.get('architecture')!r} is not jump_relu",
        )
    if "W_dec" in values and values["W_dec"].ndim == 3:
        raise unreadable(str(path), "its latents decode to several layers")
    transcodes = _transcodes(str(files.path(CONFIG)), config, values, files.given)
    tensors = taken(str(path), values, NAMES | ({SKIP} & set(values)))
    metadata, folded = _metadata(config, files), "" if second else ARCHIVED
    if "input_scale" in files.given:
        if transcodes:
            raise unreadable(str(path), "a transcoder has no scale of the input")
        tensors = with_input_scale(tensors, files.given["input_scale"])
        folded = folded or SCALED
    if not transcodes:
        options = {"target_l0": None, "pre_bias": False}
        return Stored("jumprelu", options, tensors, metadata, folded)
    skip = tensors.pop(SKIP, None)
    if skip is not None:
        tensors["W_skip"] = skip.t()
    options = {"activation": "jumprelu", "skip_connection": skip is not None}
    return Stored("transcoder", options, tensors, metadata, folded)


def _renamed(name: str) -> str:
    """Return a name with the capital that the second form and some transcoders leave out."""
    return f"W_{name[2:]}" if name.startswith("w_") else name


def _transcodes(where: str, config: dict[str, Any], values: dict[str, Tensor], given: Any) -> bool:
    """Whether another place is predicted than the one that is read."""
    if config:
        source = setting(where, config, "hf_hook_point_in", str)
        target = setting(where, config, "hf_hook_point_out", str, source)
        affine = setting(where, config, "affine_connection", bool, False)
        if affine != (SKIP in values):
            raise unreadable(where, f"affine_connection is {affine} and the weights say otherwise")
        return source != target or affine
    widths = {values["W_enc"].shape[0], values["W_dec"].shape[-1]} if set(values) >= NAMES else {}
    named = any(PUBLISHED.search(part) for part in Path(where).parts)
    return bool(given.get("transcoder", len(widths) == 2 or SKIP in values or named))


def _metadata(config: dict[str, Any], files: Checkpoint) -> dict[str, Any]:
    found = {
        "format": "gemma_scope",
        "base_model": config.get("model_name"),
        "hookpoint": config.get("hf_hook_point_in"),
        "target_hookpoint": config.get("hf_hook_point_out"),
        "folder": files.folder.name,
    }
    return {name: value for name, value in found.items() if value}
