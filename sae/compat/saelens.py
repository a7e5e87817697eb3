"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, before and after version 6."""

from typing import Any

import torch
from torch import Tensor

from sae.compat.checkpoint import Checkpoint
from sae.compat.plain import Plain
from sae.compat.stored import (
    SCALED,
    Stored,
    check_sizes,
    setting,
    taken,
    unreadable,
    with_decoder_norms,
    with_input_scale,
)
from sae.compat.weights import json_bytes, read_safetensors, safetensors_bytes

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
NAMES = {"W_enc", "W_dec", "b_enc", "b_dec"}
TRANSCODERS = {
    "transcoder": False,
    "skip_transcoder": True,
    "jumprelu_transcoder": False,
    "jumprelu_skip_transcoder": True,
}
BATCHED = ("batchtopk", "matryoshka_batchtopk")
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", *BATCHED, *TRANSCODERS)
WITHOUT_A_CLASS = {
    "abstopk": "keeps the k largest magnitudes with their signs, for which there is no class here",
    "matching_pursuit": "encodes by picking one latent after the other until the residual is small "
    "enough, for which there is no class here (sae.matching_pursuit takes a fixed number)",
    "temporal": "predicts each token from those before it by attention, for which there is no "
    "class here",
}
ROW_NORMS = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "unit_norm"}


def recognizes(files: Checkpoint) -> bool:
    """Whether these are the files of the format."""
    return {CONFIG, WEIGHTS} <= files.names


def read(files: Checkpoint) -> Stored:
    """Return the autoencoder with the codes that the library's own class for inference gives.

    Raises
    ------
    ValueError
        If the architecture or a flag is not one of those known, or the scale of the input, which
        "expected_average_only_in" leaves to the data, is not given.
    """
    where = str(files.path(CONFIG))
    config = files.json(CONFIG)
    architecture = _architecture(where, config)
    tensors = read_safetensors(files.path(WEIGHTS))
    factor = _finetuned_scale(where, config, tensors)
    if factor is not None:
        tensors["W_dec"] = tensors["W_dec"] * factor[:, None]
    row_norm, scale = _normalization(where, config, _scale(files))
    if architecture in TRANSCODERS:
        return _transcoder(where, config, architecture, tensors, row_norm, scale)
    weights = _renamed(str(files.path(WEIGHTS)), architecture, tensors)
    by_norm = setting(where, config, "rescale_acts_by_decoder_norm", bool, False)
    if scale is not None:
        weights = with_input_scale(weights, scale)
        if by_norm and architecture in BATCHED:  # the threshold is in units of the decoder norms
            weights["threshold"] = weights["threshold"] / scale
    check_sizes(where, config, weights)
    if by_norm:
        weights = with_decoder_norms(weights)
    ours, options = _ours(where, config, architecture)
    options["pre_bias"] = setting(where, config, "apply_b_dec_to_input", bool, True)
    folded = scale is not None or by_norm or factor is not None
    options |= {"row_norm": row_norm}
    return Stored(ours, options, weights, _metadata(config), SCALED if folded else "")


def _architecture(where: str, config: dict[str, Any]) -> str:
    """Return the architecture; before version 6 the activation says more than its name."""
    architecture = setting(where, config, "architecture", str, "standard")
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if activation == "topk":
        architecture = "topk"
    elif activation not in ("relu", None):
        raise unreadable(where, f"the activation {activation!r} is not relu or topk")
    if architecture in WITHOUT_A_CLASS:
        raise unreadable(
            where, f"the architecture {architecture!r} of SAELens {WITHOUT_A_CLASS[architecture]}"
        )
    if architecture not in ARCHITECTURES:
        raise unreadable(
            where,
            f"the architecture {architecture!r} of SAELens is not one of "
            f"{', '.join(ARCHITECTURES)}",
        )
    return architecture


def _ours(where: str, config: dict[str, Any], architecture: str) -> tuple[str, dict[str, Any]]:
    """Return our name of the architecture, and its settings."""
    if architecture == "standard":
        return "relu", {}
    if architecture == "gated":
        return "gated", {}
    if architecture == "jumprelu":
        return "jumprelu", {"target_l0": None}
    if architecture == "topk":
        kwargs = setting(where, config, "activation_fn_kwargs", dict, {})
        return "topk", {"k": setting(where, {**kwargs, **config}, "k", int)}
    k = float(setting(where, config, "k", (int, float)))
    if architecture == "batchtopk":
        return "batch_topk", {"k": k}
    return "matryoshka", {"k": k, "prefixes": setting(where, config, "matryoshka_widths", list)}


def _renamed(what: str, architecture: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under our names."""
    if architecture == "gated":
        names = (NAMES - {"b_enc"}) | {"b_gate", "b_mag", "r_mag"}
        found = taken(what, tensors, names)
        return {"b_enc": found.pop("b_gate"), **found}
    if architecture in BATCHED:
        found = taken(what, tensors, NAMES | {"topk_threshold"})
        return {"threshold": found.pop("topk_threshold"), **found}
    if architecture != "jumprelu":
        return taken(what, tensors, NAMES)
    if "log_threshold" in tensors and "threshold" not in tensors:  # of training, before July 2026
        found = taken(what, tensors, NAMES | {"log_threshold"})
        return {"threshold": found.pop("log_threshold").exp(), **found}
    return taken(what, tensors, NAMES | {"threshold"})


def _transcoder(
    where: str,
    config: dict[str, Any],
    architecture: str,
    tensors: dict[str, Tensor],
    row_norm: str,
    scale: float | None,
) -> Stored:
    """Return a transcoder; one with a ReLU is one whose thresholds are 0."""
    if setting(where, config, "apply_b_dec_to_input", bool, False):
        raise unreadable(
            where, "a transcoder cannot subtract the bias of its target from its input"
        )
    if row_norm != "none" or scale is not None:
        raise unreadable(where, "for a transcoder no normalization of the input is defined")
    names = NAMES | ({"threshold"} if "jumprelu" in architecture else set())
    names |= {"W_skip"} if TRANSCODERS[architecture] else set()
    options = {"activation": "jumprelu", "skip_connection": TRANSCODERS[architecture]}
    weights = taken(where, tensors, names)
    check_sizes(where, config, weights)
    return Stored("transcoder", options, weights, _metadata(config))


def _scale(files: Checkpoint) -> float | None:
    """Return what rows are multiplied by: as given, or as a checkpoint of the training has it."""
    stored = setting(str(files.path(SCALER)), files.json(SCALER), "scaling_factor", float, None)
    return files.given.get("input_scale", stored)


def _normalization(
    where: str, config: dict[str, Any], scale: float | None
) -> tuple[str, float | None]:
    """Return how rows are normalized, and the scale to fold where it is a constant."""
    kind = config.get("normalize_activations")
    kind = {None: "none", False: "none", True: "expected_average_only_in"}.get(kind, kind)
    if kind in ROW_NORMS:
        return ROW_NORMS[kind], None
    if kind != "expected_average_only_in":
        raise unreadable(
            where,
            f"normalize_activations={kind!r} needs statistics of the data, which the files lack",
            "Fold them into the weights in SAELens first.",
        )
    if scale is None:
        raise unreadable(
            where,
            'with normalize_activations="expected_average_only_in" rows are multiplied by '
            "sqrt(d_in) / their mean norm, which the files lack",
            'Give it: sae.load(..., given={"input_scale": 0.25}).',
        )
    return "none", scale


def _finetuned_scale(
    where: str, config: dict[str, Any], tensors: dict[str, Tensor]
) -> Tensor | None:
    """Take out and return the factor of each code that old versions applied before they decoded."""
    factor = tensors.pop("scaling_factor", None)
    factor = tensors.pop("finetuning_scaling_factor", factor)
    if factor is None or torch.equal(factor, torch.ones_like(factor)):
        return None
    if not setting(where, config, "finetuning_scaling_factor", bool, False):
        raise unreadable(where, "there is a scaling factor and finetuning_scaling_factor is false")
    return factor


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("metadata")
    known = {**config, **(inner if isinstance(inner, dict) else {})}
    hookpoint = known.get("hook_name", known.get("hook_point"))
    # Before version 6 the name alone said that rows are the outputs of heads side by side.
    by_name = "hook_z" if "hook_z" in str(hookpoint) else "none"
    found = {
        "format": "saelens",
        "version": known.get("sae_lens_version"),
        "base_model": known.get("model_name"),
        "hookpoint": hookpoint,
        "target_hookpoint": known.get("hook_name_out"),
        "hook_z": config.get("reshape_activations", by_name) == "hook_z",
    }
    return {name: value for name, value in found.items() if value}


def files(model: Plain) -> dict[str, bytes]:
    """Return the files of a model for SAELens 6 and later.

    Raises
    ------
    ValueError
        If the library has no such model.
    """
    architecture = _exported(model)
    tensors = dict(model.tensors)
    options: dict[str, Any] = {}
    if architecture == "topk":
        options = {"k": model.k, "rescale_acts_by_decoder_norm": False}
    if architecture == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    if "jumprelu" not in architecture:
        tensors.pop("threshold", None)
    d_in, d_sae = tensors["W_enc"].shape
    if architecture in TRANSCODERS:
        options["d_out"] = tensors["W_dec"].shape[1]
    known = model.metadata
    metadata = {
        "sae_lens_version": "6.0.0",
        "model_name": known.get("base_model"),
        "hook_name": known.get("hookpoint"),
        "hook_name_out": known.get("target_hookpoint"),
    }
    config = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(tensors["W_dec"].dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": model.pre_bias,
        "normalize_activations": {ours: name for name, ours in ROW_NORMS.items()}[model.row_norm],
        "reshape_activations": "hook_z" if known.get("hook_z") else "none",
        **options,
        "metadata": {name: value for name, value in metadata.items() if value is not None},
    }
    return {WEIGHTS: safetensors_bytes(tensors), CONFIG: json_bytes(config)}


def _exported(model: Plain) -> str:
    """Return the architecture under which the library has such a model."""
    skip = "W_skip" in model.tensors
    if model.selection == "groupmax":
        raise ValueError("`format='saelens'` must have k latents or thresholds; got groupmax.")
    if model.selection == "topk" and (skip or not model.is_square):
        raise ValueError(
            "`format='saelens'` must have a transcoder with thresholds, or with k latents but one "
            "width and no skip connection; got another one with k latents."
        )
    if model.selection != "threshold":
        return model.selection
    if not model.transcodes:
        return "standard" if model.is_relu else "jumprelu"
    jump, through = "" if model.is_relu else "jumprelu_", "skip_" if skip else ""
    return f"{jump}{through}transcoder"
