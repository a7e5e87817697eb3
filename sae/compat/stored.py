"""An autoencoder between its file and its model: our names and shapes, whoever wrote it."""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sae.autoencoders import AUTOENCODERS, AbstractAutoencoder
from sparsecode._checks import check_shape


@dataclass(frozen=True)
class Stored:
    """What a reader of a format returns.

    Parameters
    ----------
    architecture : str
        A key of `sae.AUTOENCODERS`.
    config : dict
        Arguments of its constructor but for the sizes, which are those of the weights.
    tensors : dict of str to Tensor
        Under the names of our parameters and buffers, ``W_enc`` of shape (D, F) and ``W_dec`` of
        shape (F, D); what is missing keeps the value that a new model has.
    metadata : dict, default={}
        Where the model comes from, ready for JSON.
    folded : str, default=""
        Why the weights had to be computed or copied from those in the file, if they had.
    """

    architecture: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    folded: str = ""

    def settings(self) -> dict[str, Any]:
        """Return all arguments of the constructor."""
        n_features, n_latents = self.tensors["W_enc"].shape
        settings = {"n_features": n_features, "n_latents": n_latents, **self.config}
        if self.architecture == "transcoder":
            settings.setdefault("n_targets", self.tensors["W_dec"].shape[1])
            settings.setdefault("k", min(32, n_latents))  # "jumprelu" has none
        return settings


@torch.no_grad()
def build(stored: Stored) -> AbstractAutoencoder:
    """Return the model, with the weights of `stored` in their dtype, the widest of several.

    Parameters
    ----------
    stored : Stored

    Returns
    -------
    AbstractAutoencoder
        In evaluation mode.

    Raises
    ------
    ValueError
        If a tensor has a shape that does not fit the others.
    """
    check_shapes(stored)
    model = AUTOENCODERS[stored.architecture](**stored.settings())
    # A threshold for all latents, which may be wider, is compared in the dtype of the others.
    dtypes = [tensor.dtype for tensor in stored.tensors.values() if tensor.ndim]
    model.to(functools.reduce(torch.promote_types, dtypes))
    state = model.state_dict()
    for name, tensor in stored.tensors.items():
        state[name].copy_(tensor)
    model.metadata = dict(stored.metadata)
    return model.eval()


def check_shapes(stored: Stored) -> None:
    """Refuse weights that do not fit each other.

    Raises
    ------
    ValueError
        Naming the tensor, under our name, and what its shape must be.
    """
    w_enc, w_dec = stored.tensors["W_enc"], stored.tensors["W_dec"]
    check_shape("W_enc", w_enc, (None, None), ("n_features", "n_latents"))
    check_shape("b_dec", stored.tensors["b_dec"], (None,), ("n_targets",))
    (d, f), (targets,) = w_enc.shape, stored.tensors["b_dec"].shape
    if stored.architecture != "transcoder":
        targets = d
    check_shape("W_dec", w_dec, (f, targets), ("n_latents", "n_targets"))
    check_shape("b_dec", stored.tensors["b_dec"], (targets,), ("n_targets",))
    for name in ("b_enc", "b_mag", "r_mag"):
        if name in stored.tensors:
            check_shape(name, stored.tensors[name], (f,), ("n_latents",))
    if stored.tensors.get("threshold", w_enc[0]).ndim:
        check_shape("threshold", stored.tensors.get("threshold", w_enc[0]), (f,), ("n_latents",))
    if "W_skip" in stored.tensors:
        check_shape("W_skip", stored.tensors["W_skip"], (targets, d), ("n_targets", "n_features"))


def check_sizes(where: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a configuration whose ``d_in``, ``d_sae`` or ``d_out`` the weights do not have."""
    w_enc, w_dec = tensors["W_enc"], tensors["W_dec"]
    sizes = {"d_in": w_enc.shape[0], "d_sae": w_enc.shape[-1], "d_out": w_dec.shape[-1]}
    wrong = [name for name, size in sizes.items() if config.get(name, size) != size]
    if wrong:
        raise unreadable(
            where,
            ", ".join(
                f"{name} is {config[name]} and {sizes[name]} in the weights" for name in wrong
            ),
            "Are the weights of another model, or transposed?",
        )


def taken(
    what: str, values: Mapping[str, Any], names: Collection[str], ignored: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return the tensors of these names, and refuse a file that lacks one or holds another.

    Parameters
    ----------
    what : str
        The file, for the message.
    values : mapping
    names : collection of str
    ignored : collection of str, default=()
        Names that may be there and say nothing about codes.

    Raises
    ------
    ValueError
        If a name is missing or unknown, or is that of something else than a floating tensor.
    """
    missing = sorted(set(names) - set(values))
    unknown = sorted(set(values) - set(names) - set(ignored))
    if missing or unknown:
        facts = [f"lacks {', '.join(missing)}"] * bool(missing)
        facts += [f"holds {', '.join(unknown[:5])}, whose meaning is not known"] * bool(unknown)
        raise ValueError(
            f"`{what}` must hold {', '.join(sorted(names))} and nothing else; it "
            f"{' and '.join(facts)}."
        )
    for name in names:
        _check_plain(what, name, values[name])
    return {name: values[name] for name in names}


def _check_plain(what: str, name: str, value: Any) -> None:
    """Refuse what is no floating matrix, vector or number with a place in memory for each entry."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        got = value.dtype if isinstance(value, Tensor) else type(value)
        raise ValueError(f"`{what}` must hold floating tensors; its {name} is {got}.")
    if value.layout != torch.strided or value.device.type == "meta" or value.is_quantized:
        got = f"{value.layout} on the device {value.device}"
        raise ValueError(f"`{what}` must hold dense tensors with values; its {name} is {got}.")
    if value.ndim > 2:
        raise ValueError(
            f"`{what}` must hold matrices and vectors; its {name} has shape {tuple(value.shape)}."
        )
    # A few bytes that are repeated along an axis would become a whole matrix in the model.
    if value.nbytes > value.untyped_storage().nbytes():
        raise ValueError(
            f"`{what}` must hold each entry of a tensor; its {name} of shape "
            f"{tuple(value.shape)} has {value.untyped_storage().nbytes()} bytes."
        )


def whole(where: str, name: str, value: Any) -> int:
    """Return a whole number, which `torch.save` may hold as a tensor with one entry.

    Parameters
    ----------
    where : str
        The file, for the message.
    name : str
    value : int or Tensor

    Raises
    ------
    ValueError
        If it is anything else.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "meta":
        value = value.item()
    if isinstance(value, float) and value == int(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"`{where}` must have a whole number as {name!r}; got {value!r}.")
    return value


def setting(
    where: str, config: Mapping[str, Any], name: str, kinds: Any, default: Any = ...
) -> Any:
    """Return a setting of the right type.

    Parameters
    ----------
    where : str
        The file, for the message.
    config : mapping
    name : str
    kinds : type or tuple of types
        Without bool, unless bool is named.
    default : object, default=...
        What the format says of a file without the setting; ... refuses it.

    Raises
    ------
    ValueError
        If it is missing without a default, or of another type.
    """
    value = config.get(name, default)
    if value is ...:
        raise ValueError(f"`{where}` must have the setting {name!r}; it has none.")
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if value is not default and (
        not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
    ):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"`{where}` must have a setting {name!r} of type {wanted}; got {value!r}.")
    return value


def unreadable(where: str, fact: str, advice: str = "") -> ValueError:
    """Return the refusal of a checkpoint whose codes we could not give."""
    return ValueError(
        f"`{where}` must hold what can be read without guessing; {fact}. {advice}".rstrip()
    )


def without_pre_bias(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the ``b_enc`` with which ``x`` has the pre-activations that ``x - b_dec`` has."""
    shift = tensors["b_dec"].double() @ tensors["W_enc"].double()
    return (tensors["b_enc"].double() - shift).to(tensors["b_enc"].dtype)


def with_decoder_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose codes are times the decoder norms, and whose decoder has unit rows."""
    norms = torch.linalg.vector_norm(tensors["W_dec"].double(), dim=1)
    safe = torch.where(norms > 0, norms, 1.0)
    factors = {"W_enc": norms, "b_enc": norms, "W_dec": 1.0 / safe[:, None]}
    scaled = {
        name: (tensors[name].double() * factor).to(tensors[name].dtype)
        for name, factor in factors.items()
    }
    return {**tensors, **scaled}


SCALED = "a scale is folded into them"


def with_input_scale(
    tensors: Mapping[str, Tensor], scale: float, target_scale: float | None = None
) -> dict[str, Tensor]:
    """Return weights for rows as they are, from those for rows times `scale`; codes stay.

    Parameters
    ----------
    tensors : mapping
    scale : float
    target_scale : float or None, default=None
        What targets were multiplied by; None means `scale`.
    """
    back = 1.0 / (scale if target_scale is None else target_scale)
    factors = {"W_enc": scale, "W_dec": back, "b_dec": back}
    scaled = {
        name: (tensors[name].double() * factor).to(tensors[name].dtype)
        for name, factor in factors.items()
    }
    return {**tensors, **scaled}
