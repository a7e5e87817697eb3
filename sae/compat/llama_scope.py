"""Llama Scope of OpenMOSS: hyperparams.json, or the later config.json, and one safetensors file."""

import math
from typing import Any

import torch
from torch import Tensor

from sae.compat.checkpoint import Checkpoint
from sae.compat.stored import (
    SCALED,
    Stored,
    setting,
    taken,
    unreadable,
    with_input_scale,
    without_pre_bias,
)
from sae.compat.weights import read_safetensors

FIRST = ("hyperparams.json", "checkpoints/final.safetensors")
FIRST_FLAT = ("hyperparams.json", "final.safetensors")
SECOND = ("config.json", "sae_weights.safetensors")
FORMS = (FIRST, FIRST_FLAT, SECOND)
NAMES = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
}
OTHERS = {
    "clt": "but a cross-layer transcoder, whose latents decode to several layers",
    "crosscoder": "but a crosscoder, whose latents have weights at several places",
    "lorsa": "but low-rank sparse attention, whose latents are heads",
    "molt": "but a mixture of linear transforms",
}
EQUAL = 1e-4  # relative spread of decoder norms that leaves the order of codes as it is


def recognizes(files: Checkpoint) -> bool:
    """Whether these are the files of one of the forms."""
    return any(set(form) <= files.names for form in FORMS)


def read(files: Checkpoint) -> Stored:
    """Return the autoencoder or transcoder, with codes as OpenMOSS computes them.

    Rows are multiplied by ``sqrt(d_model) / dataset_average_activation_norm``, which is folded into
    the weights, and pre-activations, times the norms of the decoder where
    ``sparsity_include_decoder_norm`` says so, are compared with ``jump_relu_threshold`` as it is.
    SAELens multiplies the threshold by the first factor too and leaves out the norms, and so gives
    other codes.

    Raises
    ------
    ValueError
        If a part of the model or its normalization is not known.
    """
    config_name, weights_name = next(form for form in FORMS if set(form) <= files.names)
    where, what = str(files.path(config_name)), str(files.path(weights_name))
    config, values = files.json(config_name), read_safetensors(files.path(weights_name))
    if setting(where, config, "use_glu_encoder", bool, False):
        raise unreadable(where, "its encoder is gated by a second one (use_glu_encoder)")
    kind = setting(where, config, "sae_type", str, "sae")
    if kind != "sae":
        others = f", {OTHERS[kind]}" if kind in OTHERS else ""
        raise unreadable(where, f"its sae_type is {kind!r}, not 'sae'{others}")
    kind, options, threshold = _activation(where, config, values)
    names = set(NAMES)
    if not setting(where, config, "use_decoder_bias", bool, True):
        names.discard("decoder.bias")
    found = taken(what, values, names)
    tensors = {NAMES[name]: tensor for name, tensor in found.items()}
    tensors |= {name: tensors[name].t() for name in ("W_enc", "W_dec")}
    tensors.setdefault("b_dec", tensors["W_dec"].new_zeros(tensors["W_dec"].shape[1]))
    if setting(where, config, "apply_decoder_bias_to_pre_encoder", bool, False):
        tensors["b_enc"] = without_pre_bias(tensors)  # in normalized units, before they are folded
    by_norm = setting(where, config, "sparsity_include_decoder_norm", bool, True)
    if by_norm and kind == "topk":
        _check_equal_norms(where, tensors["W_dec"])
    if by_norm and threshold is not None:
        norms = torch.linalg.vector_norm(tensors["W_dec"].double(), dim=1)
        threshold = torch.where(norms > 0, threshold.double() / norms, math.inf)
    row_norm, scales = _normalization(where, config, tensors["W_enc"].shape[0], files.given)
    tensors = with_input_scale(tensors, *scales)
    if threshold is not None:
        tensors["threshold"] = threshold.expand(tensors["b_enc"].shape).to(tensors["b_enc"].dtype)
    return _stored(where, config, kind, options, tensors, row_norm)


def _stored(
    where: str,
    config: dict[str, Any],
    kind: str,
    options: dict[str, Any],
    tensors: dict[str, Tensor],
    row_norm: str,
) -> Stored:
    """Return an autoencoder where input and target are one place, else a transcoder."""
    source = setting(where, config, "hook_point_in", str)
    target = setting(where, config, "hook_point_out", str, source)
    metadata = {"format": "llama_scope", "hookpoint": source, "target_hookpoint": target}
    if source == target:
        if kind == "jumprelu":
            options = {"target_l0": None, **options}
        options = {**options, "pre_bias": False, "row_norm": row_norm}
        return Stored(kind, options, tensors, metadata, SCALED)
    if row_norm != "none":
        raise unreadable(where, "the norm of each target is not known when it is predicted")
    activation = {"relu": "jumprelu"}.get(kind, kind)  # thresholds of 0
    return Stored("transcoder", {**options, "activation": activation}, tensors, metadata, SCALED)


def _activation(
    where: str, config: dict[str, Any], values: dict[str, Tensor]
) -> tuple[str, dict[str, Any], Tensor | None]:
    """Return our name of the architecture, its settings and its threshold."""
    act_fn = setting(where, config, "act_fn", str).lower()
    logarithm = values.pop("log_jumprelu_threshold", None)
    logarithm = values.pop("activation_function.log_jumprelu_threshold", logarithm)
    if act_fn == "jumprelu":
        if logarithm is not None:
            return "jumprelu", {}, logarithm.exp()
        theta = setting(where, config, "jump_relu_threshold", (int, float))
        return "jumprelu", {}, torch.tensor(float(theta), dtype=torch.float64)
    if act_fn == "topk":
        return "topk", {"k": setting(where, config, "top_k", int)}, None
    if act_fn == "relu":
        return "relu", {}, None
    raise unreadable(where, f"the activation {act_fn!r} is not jumprelu, topk or relu")


def _normalization(
    where: str, config: dict[str, Any], d_model: int, given: Any
) -> tuple[str, tuple[float, float]]:
    """Return how rows are normalized, and the factors of input and target."""
    kind = setting(where, config, "norm_activation", str)
    if kind == "inference":
        return "none", (1.0, 1.0)
    if kind == "token-wise":
        return "unit_norm", (1.0, 1.0)
    if kind != "dataset-wise":
        raise unreadable(where, f"the normalization {kind!r} depends on the batch or is not known")
    norms = config.get("dataset_average_activation_norm")
    one_place = setting(where, config, "hook_point_out", str, "") in ("", config["hook_point_in"])
    if isinstance(norms, dict) and "in" in norms and ("out" in norms or one_place):
        norms = {"out": norms["in"], **norms}
        found = [float(setting(where, norms, side, (int, float))) for side in ("in", "out")]
        if not all(math.isfinite(norm) and norm > 0 for norm in found):
            raise unreadable(where, f"the norms {found} are not positive")
        return "none", (math.sqrt(d_model) / found[0], math.sqrt(d_model) / found[1])
    scale = given.get("input_scale")
    if scale is None:
        raise unreadable(
            where,
            "rows are multiplied by sqrt(d_model) / their mean norm, which the files lack",
            'Give it: sae.load(..., given={"input_scale": 0.25}).',
        )
    return "none", (float(scale), float(given.get("target_scale", scale)))


def _check_equal_norms(where: str, w_dec: Tensor) -> None:
    norms = torch.linalg.vector_norm(w_dec.double(), dim=1)
    if float(norms.max() / norms.min()) - 1.0 > EQUAL:
        raise unreadable(
            where, "latents are selected by code times decoder norm, and the norms differ"
        )
