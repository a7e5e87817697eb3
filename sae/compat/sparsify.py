"""sparsify: ``cfg.json`` and ``sae.safetensors``, one folder a hookpoint."""

from sae.compat.checkpoint import Checkpoint
from sae.compat.plain import Plain
from sae.compat.stored import Stored, check_sizes, setting, taken, unreadable, without_pre_bias
from sae.compat.weights import json_bytes, read_safetensors, safetensors_bytes

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def recognizes(files: Checkpoint) -> bool:
    """Whether these are the files of the format."""
    return {CONFIG, WEIGHTS} <= files.names


def read(files: Checkpoint) -> Stored:
    """Return the autoencoder or transcoder.

    One with a skip connection that subtracts its bias nevertheless becomes a transcoder of its own
    input, with the bias folded into the encoder.

    Raises
    ------
    ValueError
        If its activation is not known, or codes may be negative ("signed").
    """
    where, config = str(files.path(CONFIG)), files.json(CONFIG)
    activation = setting(where, config, "activation", str, "topk")
    if activation not in ("topk", "groupmax"):
        raise unreadable(where, f"the activation {activation!r} is not topk or groupmax")
    if setting(where, config, "signed", bool, False):
        raise unreadable(where, "with signed=true the largest sizes are kept, of either sign")
    skip = setting(where, config, "skip_connection", bool, False)
    transcode = setting(where, config, "transcode", bool, False)
    names = {"encoder.weight", "encoder.bias", "W_dec", "b_dec"} | ({"W_skip"} if skip else set())
    found = taken(str(files.path(WEIGHTS)), read_safetensors(files.path(WEIGHTS)), names)
    tensors = {
        "W_enc": found.pop("encoder.weight").t(),
        "b_enc": found.pop("encoder.bias"),
        **found,
    }
    k = setting(where, config, "k", int)
    check_sizes(where, config, tensors)
    if activation == "groupmax" and tensors["b_enc"].shape[0] % k:
        raise unreadable(where, f"{tensors['b_enc'].shape[0]} latents are not {k} equal groups")
    options = {"k": k, "activation": activation}
    metadata = {"format": "sparsify", "hookpoint": files.folder.name}
    if not transcode and not skip:
        return Stored("topk", {**options, "pre_bias": True}, tensors, metadata)
    if not transcode:
        tensors["b_enc"] = without_pre_bias(tensors)
    return Stored("transcoder", {**options, "skip_connection": skip}, tensors, metadata)


def files(model: Plain) -> dict[str, bytes]:
    """Return the files of a model for sparsify.

    Raises
    ------
    ValueError
        If the library has no such model.
    """
    if model.selection not in ("topk", "groupmax"):
        raise ValueError(
            "`format='sparsify'` must have a model that keeps k latents of each row; got one with "
            f"selection by {model.selection}. Use format='saelens'."
        )
    if model.row_norm != "none" or not model.is_square:
        raise ValueError(
            "`format='sparsify'` must have rows as they are and one width of input and target; got "
            f"row_norm={model.row_norm!r} and {model.tensors['W_dec'].shape[1]} targets of "
            f"{model.tensors['W_enc'].shape[0]} features."
        )
    d_in, num_latents = model.tensors["W_enc"].shape
    if model.selection == "groupmax" and num_latents % (model.k or 1):
        raise ValueError(
            f"`format='sparsify'` must have k equal groups of latents; got k={model.k} and "
            f"{num_latents} latents."
        )
    tensors = {"encoder.weight": model.tensors["W_enc"].t(), "encoder.bias": model.tensors["b_enc"]}
    tensors |= {name: model.tensors[name] for name in ("W_dec", "b_dec")}
    if "W_skip" in model.tensors:
        tensors["W_skip"] = model.tensors["W_skip"]
    config = {
        "activation": model.selection,
        "expansion_factor": max(1, num_latents // d_in),
        "normalize_decoder": model.pre_bias,
        "num_latents": num_latents,
        "k": model.k,
        "multi_topk": False,
        "skip_connection": "W_skip" in tensors,
        "transcode": not model.pre_bias,  # all that this changes at inference
        "d_in": d_in,
    }
    return {WEIGHTS: safetensors_bytes(tensors), CONFIG: json_bytes(config)}
