"""Bussmann's BatchTopK and matryoshka_sae: ``sae.pt`` and ``config.json``."""

import ast
import itertools
from typing import Any

import torch

from sae.compat.checkpoint import Checkpoint
from sae.compat.stored import Stored, setting, taken, unreadable
from sae.compat.weights import read_torch

CONFIG, WEIGHTS = "config.json", "sae.pt"
NAMES = {"W_enc", "W_dec", "b_dec", "b_enc"}
KINDS = {
    "topk": "topk",
    "batchtopk": "batch_topk",
    "batch-topk": "batch_topk",
    "global-matryoshka-topk": "matryoshka",
    "vanilla": "relu",
    "jumprelu": "jumprelu",
}
"""What ``sae_type`` may be, and our architecture."""


def recognizes(files: Checkpoint) -> bool:
    """Whether these are the files of the format."""
    return {CONFIG, WEIGHTS} <= files.names


def read(files: Checkpoint) -> Stored:
    """Return the autoencoder in evaluation mode: codes of the Top-K kinds do without ``b_enc``.

    Raises
    ------
    ValueError
        If the kind is not known, or it selects over a batch and has no threshold for single rows.
    """
    where, what = str(files.path(CONFIG)), str(files.path(WEIGHTS))
    config, values = files.json(CONFIG), read_torch(files.path(WEIGHTS))
    kind = setting(where, config, "sae_type", str)
    if kind not in KINDS:
        raise unreadable(where, f"the sae_type {kind!r} is not one of {', '.join(KINDS)}")
    ours = KINDS[kind]
    options: dict[str, Any] = {"row_norm": _row_norm(where, config)}
    by_threshold = ours in ("batch_topk", "matryoshka")
    if by_threshold and "threshold" not in values:
        values["threshold"] = _given_threshold(what, files)
    names = NAMES | ({"threshold"} if by_threshold else set())
    names |= {"jumprelu.log_threshold"} if ours == "jumprelu" else set()
    tensors = taken(what, values, names)
    if ours == "jumprelu":
        tensors["threshold"] = tensors.pop("jumprelu.log_threshold").exp()
        options |= {"target_l0": None, "pre_bias": False}
    if ours in ("topk", "batch_topk", "matryoshka"):
        tensors["b_enc"] = torch.zeros_like(tensors["b_enc"])  # there, and never used
        options["k"] = setting(where, config, "top_k", int)
    if ours == "matryoshka":
        options["prefixes"] = _prefixes(where, config)
    metadata = {
        "format": "bussmann",
        "base_model": config.get("model_name"),
        "hookpoint": config.get("hook_point"),
    }
    return Stored(ours, options, tensors, {name: v for name, v in metadata.items() if v})


def _row_norm(where: str, config: dict[str, Any]) -> str:
    return "layer_norm" if setting(where, config, "input_unit_norm", bool, False) else "none"


def _given_threshold(what: str, files: Checkpoint) -> torch.Tensor:
    threshold = files.given.get("threshold")
    if threshold is None:
        raise unreadable(
            what,
            "its kind selects over a batch, and the threshold for single rows is missing",
            'Give it: sae.load(..., given={"threshold": 0.1}).',
        )
    return torch.tensor(float(threshold))


def _prefixes(where: str, config: dict[str, Any]) -> list[int]:
    """Return where the groups end; the library writes lists as text."""
    sizes = config.get("group_sizes")
    if isinstance(sizes, str):
        try:
            sizes = ast.literal_eval(sizes)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            sizes = None
    whole = isinstance(sizes, list) and all(type(size) is int and size > 0 for size in sizes)
    if not whole or not sizes:
        raise unreadable(where, f"group_sizes is {config.get('group_sizes')!r}, not whole numbers")
    return list(itertools.accumulate(sizes))
