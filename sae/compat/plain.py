"""What other libraries can hold of our models: how latents are selected, and the weights."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from sae.autoencoders import (
    AbstractAutoencoder,
    BatchTopK,
    Gated,
    HierarchicalTopK,
    JumpReLU,
    Matryoshka,
    MultiTopK,
    ReLU,
    TopK,
    Transcoder,
)

Selection = Literal["topk", "groupmax", "threshold", "gated"]


@dataclass(frozen=True)
class Plain:
    """A model at inference, whatever its training was.

    Parameters
    ----------
    selection : {"topk", "groupmax", "threshold", "gated"}
    tensors : dict of str to Tensor
        ``W_enc`` (D, F), ``b_enc``, ``W_dec``, ``b_dec``; ``threshold`` (F,) of "threshold",
        ``b_mag`` and ``r_mag`` of "gated", ``W_skip`` where there is one.
    pre_bias : bool
        Whether ``b_dec`` is subtracted before encoding.
    row_norm : str
    transcodes : bool
        Whether the target is not the input.
    k : int or None, default=None
        Latents of a row; of one with thresholds those that training kept on average, if it did.
    prefixes : list of int or None, default=None
        Sizes of nested dictionaries.
    metadata : dict
    """

    selection: Selection
    tensors: dict[str, Tensor]
    pre_bias: bool = False
    row_norm: str = "none"
    transcodes: bool = False
    k: int | None = None
    prefixes: list[int] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_relu(self) -> bool:
        """Whether every positive pre-activation is a code."""
        return self.selection == "threshold" and not bool(self.tensors["threshold"].any())

    @property
    def is_square(self) -> bool:
        """Whether the target has the width of the input."""
        return self.tensors["W_enc"].shape[0] == self.tensors["W_dec"].shape[1]

    def with_pre_bias(self) -> dict[str, Tensor]:
        """Return weights with the same codes for an encoder that subtracts ``b_dec``."""
        return self.tensors if self.pre_bias else self._shifted(1.0)

    def without_pre_bias(self) -> dict[str, Tensor]:
        """Return weights with the same codes for an encoder that does not subtract ``b_dec``."""
        return self._shifted(-1.0) if self.pre_bias else self.tensors

    def _shifted(self, sign: float) -> dict[str, Tensor]:
        found = dict(self.tensors)
        shift = sign * (found["b_dec"].double() @ found["W_enc"].double())
        found["b_enc"] = (found["b_enc"].double() + shift).to(found["b_enc"].dtype)
        if "b_mag" in found:
            shift = shift * found["r_mag"].double().exp()
            found["b_mag"] = (found["b_mag"].double() + shift).to(found["b_mag"].dtype)
        return found


def plain(model: AbstractAutoencoder) -> Plain:
    """Return what a model is at inference.

    Raises
    ------
    TypeError
        If no other library has such a model.
    """
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    if isinstance(model, Transcoder):
        return _transcoder(model, names)
    if not isinstance(model, KNOWN):
        known = ", ".join(kind.__name__ for kind in (*KNOWN, Transcoder))
        raise TypeError(
            f"`model` must be one of {known} to be exported; got {type(model).__name__}, "
            "which the other libraries do not have."
        )
    config = model.config()
    settings: dict[str, Any] = {
        "pre_bias": config["pre_bias"],
        "row_norm": model.row_norm,
        "metadata": dict(model.metadata),
        "prefixes": config.get("prefixes"),
    }
    tensors = {name: getattr(model, name).detach() for name in names}
    if isinstance(model, Gated):
        tensors |= {"b_mag": model.b_mag.detach(), "r_mag": model.r_mag.detach()}
        return Plain("gated", tensors, **settings)
    if isinstance(model, (ReLU, JumpReLU, BatchTopK)) or config.get("selection") == "batch_topk":
        k = config.get("k")
        settings["k"] = int(k) if k is not None and k == int(k) else None
        return Plain("threshold", {**tensors, "threshold": _threshold(model)}, **settings)
    groupmax = config.get("activation") == "groupmax"
    return Plain("groupmax" if groupmax else "topk", tensors, k=int(config["k"]), **settings)


KNOWN = (TopK, MultiTopK, HierarchicalTopK, BatchTopK, Matryoshka, ReLU, JumpReLU, Gated)


def _transcoder(model: Transcoder, names: list[str]) -> Plain:
    names = names + (["W_skip"] if model.skip_connection else [])
    tensors = {name: getattr(model, name).detach() for name in names}
    settings: dict[str, Any] = {"transcodes": True, "metadata": dict(model.metadata)}
    if model.activation == "jumprelu":
        return Plain("threshold", {**tensors, "threshold": _threshold(model)}, **settings)
    groupmax = model.activation == "groupmax"
    return Plain("groupmax" if groupmax else "topk", tensors, k=model.k, **settings)


def _threshold(model: AbstractAutoencoder) -> Tensor:
    """Return what each latent must exceed: one number for all in some models, none in `ReLU`."""
    found = model.state_dict().get("threshold", torch.zeros((), dtype=model.b_dec.dtype))
    return found.to(model.b_enc).clamp(min=0).expand(model.n_latents).clone()
