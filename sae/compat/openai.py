"""OpenAI's sparse_autoencoder: one ``.pt`` file that holds the activation beside the weights."""

from sae.compat.checkpoint import Checkpoint
from sae.compat.stored import Stored, setting, taken, unreadable, whole
from sae.compat.weights import read_torch

NAMES = {
    "encoder.weight": "W_enc",
    "latent_bias": "b_enc",
    "decoder.weight": "W_dec",
    "pre_bias": "b_dec",
}
STATISTICS = {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}
OF_OTHERS = {"ae.pt", "sae.pt"}


def recognizes(files: Checkpoint) -> bool:
    """Whether there is one file of torch, which then must have the names of the format."""
    return len(_candidates(files)) == 1


def read(files: Checkpoint) -> Stored:
    """Return the autoencoder; the library normalizes rows exactly where the activation is TopK.

    Raises
    ------
    ValueError
        If the activation is not known, or leaves codes that may be negative.
    """
    (name,) = _candidates(files)
    what = str(files.path(name))
    values = read_torch(files.path(name))
    activation = setting(what, values, "activation", str, "ReLU")
    state = setting(what, values, "activation_state_dict", dict, {})
    values = {name: value for name, value in values.items() if not name.startswith("activation")}
    found = taken(what, values, set(NAMES), STATISTICS)
    tensors = {NAMES[name]: tensor for name, tensor in found.items()}
    tensors |= {name: tensors[name].t() for name in ("W_enc", "W_dec")}
    metadata = {"format": "openai"}
    if activation == "ReLU":
        return Stored("relu", {"pre_bias": True}, tensors, metadata)
    if activation != "TopK":
        raise unreadable(what, f"the activation {activation!r} is not ReLU or TopK")
    after = setting(what, state, "postact_fn", str, "ReLU")  # the default of the library's TopK
    if after != "ReLU":
        raise unreadable(what, f"after TopK comes {after!r}, not ReLU, so codes may be negative")
    k = whole(what, "k", state.get("k"))
    return Stored("topk", {"k": k, "row_norm": "layer_norm"}, tensors, metadata)


def _candidates(files: Checkpoint) -> list[str]:
    return [name for name in files.ending(".pt", ".pth") if name not in OF_OTHERS]
