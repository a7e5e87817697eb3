"""dictionary_learning: ``ae.pt`` and ``config.json``, which names the class of the dictionary."""

from typing import Any

import torch
from torch import Tensor

from sae.compat.checkpoint import Checkpoint
from sae.compat.plain import Plain
from sae.compat.stored import (
    SCALED,
    Stored,
    check_shapes,
    setting,
    taken,
    unreadable,
    whole,
    with_decoder_norms,
)
from sae.compat.weights import json_bytes, read_torch, torch_bytes
from sparsecode._checks import near_matches

CONFIG, WEIGHTS = "config.json", "ae.pt"
LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
GATED = {
    "encoder.weight": "W_enc",
    "gate_bias": "b_enc",
    "mag_bias": "b_mag",
    "r_mag": "r_mag",
    "decoder.weight": "W_dec",
    "decoder_bias": "b_dec",
}
NAMES = {
    "AutoEncoder": {**LINEAR, "bias": "b_dec"},
    "AutoEncoderNew": {**LINEAR, "decoder.bias": "b_dec"},
    "GatedAutoEncoder": GATED,
    "AutoEncoderTopK": {**LINEAR, "b_dec": "b_dec"},
    "BatchTopKSAE": {**LINEAR, "b_dec": "b_dec", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": {**PLAIN, "threshold": "threshold"},
    "JumpReluAutoEncoder": {**PLAIN, "threshold": "threshold"},
}
"""The name of each tensor in the file, and ours, for each class of dictionaries."""

IGNORED = {"AutoEncoderTopK": {"threshold"}}  # its codes are by k unless asked otherwise


def recognizes(files: Checkpoint) -> bool:
    """Whether these are the files of the format."""
    return WEIGHTS in files.names


def read(files: Checkpoint) -> Stored:
    """Return the dictionary with the codes of its class on the weights as they are stored.

    ``load_dictionary`` of the library goes on to give the decoder of an ``AutoEncoder`` rows of
    unit norm, and codes the norms; ``given={"normalize_decoder": True}`` does so here.

    Raises
    ------
    ValueError
        If the class is not known, or its k is told in two ways.
    """
    where, what = str(files.path(CONFIG)), str(files.path(WEIGHTS))
    if CONFIG not in files.names:
        raise unreadable(
            what, f"the class of its dictionary is in a {CONFIG} beside it, which is missing"
        )
    trainer = setting(where, files.json(CONFIG), "trainer", dict)
    kind = setting(where, trainer, "dict_class", str)
    if kind not in NAMES:
        raise unreadable(
            where,
            f"the class {kind!r} of dictionaries is not one of {', '.join(NAMES)}."
            f"{near_matches(kind, list(NAMES))}".rstrip("."),
        )
    values = read_torch(files.path(WEIGHTS))
    k, sizes = values.pop("k", None), values.pop("group_sizes", None)
    found = taken(what, values, set(NAMES[kind]), IGNORED.get(kind, set()))
    tensors = {NAMES[kind][name]: tensor for name, tensor in found.items()}
    if "encoder.weight" in found:
        tensors |= {name: tensors[name].t() for name in ("W_enc", "W_dec")}
    if "threshold" in tensors:  # below 0 it has not been set, and every positive entry is a code
        tensors["threshold"] = tensors["threshold"].clamp(min=0)
    options = _options(where, kind, trainer, k)
    if sizes is not None:
        options["prefixes"] = _prefixes(what, sizes)
    metadata, folds = _metadata(trainer, kind), files.given.get("normalize_decoder", False)
    if folds and kind != "AutoEncoder":
        raise unreadable(what, f"load_dictionary normalizes the decoder of no {kind}")
    if folds:
        check_shapes(Stored("relu", options, tensors))
        tensors, metadata["normalize_decoder"] = with_decoder_norms(tensors), True
    return Stored(_ARCHITECTURES[kind], options, tensors, metadata, SCALED if folds else "")


_ARCHITECTURES = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batch_topk",
    "MatryoshkaBatchTopKSAE": "matryoshka",
    "JumpReluAutoEncoder": "jumprelu",
}


def _options(where: str, kind: str, trainer: dict[str, Any], k: Any) -> dict[str, Any]:
    """Return the settings of our architecture."""
    options: dict[str, Any] = {"pre_bias": kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")}
    if kind == "JumpReluAutoEncoder":
        options["target_l0"] = None
    if "TopK" in kind:
        stored = None if k is None else whole(WEIGHTS, "k", k)
        options["k"] = setting(where, trainer, "k", int, stored if k is not None else ...)
        if stored not in (None, options["k"]):
            raise unreadable(where, f"its k is {options['k']}, and {stored} in {WEIGHTS}")
    return options


def _prefixes(what: str, sizes: Any) -> list[int]:
    if not isinstance(sizes, Tensor) or sizes.ndim != 1 or sizes.is_floating_point():
        raise unreadable(what, "its group_sizes are not a row of whole numbers")
    return torch.cumsum(sizes, 0).tolist()


def _metadata(trainer: dict[str, Any], kind: str) -> dict[str, Any]:
    found = {
        "format": "dictionary_learning",
        "dict_class": kind,
        "base_model": trainer.get("lm_name"),
        "hookpoint": trainer.get("submodule_name"),
        "layer": trainer.get("layer"),
    }
    return {name: value for name, value in found.items() if value is not None}


def files(model: Plain) -> dict[str, bytes]:
    """Return the files of a model for dictionary_learning.

    Where its class does not subtract the bias as the model does, or the other way round, the
    difference is folded into the bias of the encoder.

    Raises
    ------
    ValueError
        If the library has no such model.
    """
    if model.row_norm != "none" or not model.is_square or "W_skip" in model.tensors:
        raise ValueError(
            "`format='dictionary_learning'` must have rows as they are, one width of input and "
            "target and no skip connection; got a model with another. Use format='saelens'."
        )
    kind = _exported(model)
    subtracts = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    tensors = dict(model.with_pre_bias() if subtracts else model.without_pre_bias())
    if "threshold" in NAMES[kind] and kind != "JumpReluAutoEncoder":
        tensors["threshold"] = tensors["threshold"][0].float()
    if "encoder.weight" in NAMES[kind]:
        tensors |= {name: tensors[name].t() for name in ("W_enc", "W_dec")}
    state = {name: tensors[ours] for name, ours in NAMES[kind].items()}
    d_in, d_sae = model.tensors["W_enc"].shape
    trainer = {
        "dict_class": kind,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "lm_name": model.metadata.get("base_model"),
        "layer": model.metadata.get("layer"),
        "submodule_name": model.metadata.get("hookpoint"),
    }
    if "TopK" in kind:
        trainer["k"] = model.k
        state["k"] = torch.tensor(model.k, dtype=torch.int)
    if kind == "AutoEncoderTopK":
        state["threshold"] = torch.tensor(-1.0)  # not set
    if kind == "MatryoshkaBatchTopKSAE":
        ends = torch.tensor([0, *(model.prefixes or [])])
        state["group_sizes"] = ends.diff()
    return {WEIGHTS: torch_bytes(state), CONFIG: json_bytes({"trainer": trainer, "buffer": {}})}


def _exported(model: Plain) -> str:
    """Return the class whose codes are those of the model."""
    if model.selection == "gated":
        return "GatedAutoEncoder"
    if model.selection == "topk":
        return "AutoEncoderTopK"
    if model.selection == "groupmax":
        raise ValueError(
            "`format='dictionary_learning'` must have k latents or thresholds; got groupmax."
        )
    threshold = model.tensors["threshold"]
    if model.k is not None and bool((threshold == threshold[0]).all()):
        return "MatryoshkaBatchTopKSAE" if model.prefixes else "BatchTopKSAE"
    if not model.is_relu:
        return "JumpReluAutoEncoder"
    norms = torch.linalg.vector_norm(model.tensors["W_dec"].float(), dim=1)
    # load_dictionary gives the decoder of an AutoEncoder unit norm, and so changes its codes.
    unit = torch.allclose(norms, torch.ones_like(norms))
    return "AutoEncoder" if unit and model.pre_bias else "AutoEncoderNew"
