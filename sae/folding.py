"""Changes of scale that leave reconstructions and the selection of latents as they are."""

import copy

import torch
from torch import Tensor

from sae.autoencoders import AbstractAutoencoder, Crosscoder, Transcoder
from sparsecode._checks import check_floating, check_shape

EQUAL = 1e-5  # relative spread of decoder norms that counts as rounding
PARTS = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "r_mag", "b_mag", "W_skip"}
PARTS |= {"scale", "n_averaged", "feature_scale"}
BY_ROW = {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "r_mag", "b_mag", "scale", "W_skip"}
"""Parts of models that select each latent by itself, so that it may change its unit alone."""


def fold_input_scale(model: AbstractAutoencoder, scale: Tensor | float) -> AbstractAutoencoder:
    """Return the model for rows as they are, from one that was trained on rows times `scale`.

    The returned model has the same latents on `x` as `model` on ``x * scale``, times one number,
    and its reconstruction is that of `model` divided by `scale`. The number brings codes to the
    unit of the rows: with one scale for all features, weights stay as they are, biases and
    thresholds are divided by it, and decoder rows keep their norm.

    Parameters
    ----------
    model : AbstractAutoencoder
        Not changed.
    scale : float or Tensor of shape (row_width,)
        Positive factors, one for all columns of the data or one for each; for a transcoder those
        of the target come after those of the input.

    Returns
    -------
    AbstractAutoencoder

    Raises
    ------
    ValueError
        If a factor is not positive and finite, or differs between the features of a model with
        tied weights.
    TypeError
        If the encoder of the model is not affine.

    Examples
    --------
    >>> import sae
    >>> model = sae.TopK(n_features=8, n_latents=32, k=4, seed=0)
    >>> x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    >>> folded = fold_input_scale(model, 0.25)
    >>> torch.allclose(folded(x), model(x * 0.25) / 0.25, atol=1e-6)
    True
    """
    folded = copy.deepcopy(model)
    fold_input_scale_(folded, scale)
    return folded


@torch.no_grad()
def fold_input_scale_(model: AbstractAutoencoder, scale: Tensor | float) -> None:
    """Do what `fold_input_scale` does to the model itself.

    Parameters
    ----------
    model : AbstractAutoencoder
    scale : float or Tensor of shape (row_width,)
    """
    check_affine(model)
    factors = torch.as_tensor(scale, dtype=torch.float64, device=model.b_dec.device)
    if factors.ndim == 0:
        factors = factors.expand(model.row_width)
    check_shape("scale", factors, (model.row_width,), ("row_width",))
    if not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise ValueError(
            f"`scale` must be positive and finite; got values from {float(factors.min()):g} to "
            f"{float(factors.max()):g}."
        )
    if is_tied(model) and not bool((factors == factors[0]).all()):
        raise ValueError(
            f"`scale` must be one number for {type(model).__name__}, whose weights are tied; got "
            f"{len(factors)} different ones."
        )
    x_scale, y_scale = model.input_and_target(factors)
    unit = float(y_scale.pow(-2).mean().sqrt())  # of the codes: that of the rows
    _multiply(model, "W_dec", 1.0 / (y_scale * unit))
    if not is_tied(model):
        _multiply(model, "W_enc", (x_scale * unit)[:, None])
    for name in ("b_enc", "b_mag", "threshold", "scale"):
        _multiply(model, name, factors.new_tensor(unit))
    _multiply(model, "b_dec", 1.0 / y_scale)
    _multiply(model, "W_skip", x_scale / y_scale[:, None])
    _multiply(model, "feature_scale", y_scale * unit)


@torch.no_grad()
def fold_decoder_norms(model: AbstractAutoencoder) -> AbstractAutoencoder:
    """Return the model with decoder rows of unit norm, and codes times the norms they had.

    Encoder columns, biases and thresholds take the norms over. Rows of norm 0 stay as they are.
    In a crosscoder the norm is the sum of the norms at its hookpoints, as in its selection.

    Parameters
    ----------
    model : AbstractAutoencoder
        Not changed.

    Returns
    -------
    AbstractAutoencoder

    Raises
    ------
    ValueError
        If the model compares latents with each other, as TopK does, and the norms differ: other
        latents would be selected. If weights are tied and the norms are not 1.
    TypeError
        If the encoder of the model is not affine.

    Examples
    --------
    >>> import sae
    >>> model = sae.ReLU(n_features=8, n_latents=32, seed=0)
    >>> folded = fold_decoder_norms(model)
    >>> torch.allclose(torch.linalg.vector_norm(folded.W_dec, dim=1), torch.ones(32))
    True
    """
    check_affine(model)
    folded = copy.deepcopy(model)
    norms = latent_norms(folded).double()
    norms = torch.where(norms > 0, norms, 1.0)
    spread = float(norms.max() / norms.min()) - 1.0
    if not _selects_by_row(folded) and spread > EQUAL:
        raise ValueError(
            f"decoder rows must have one norm to be folded in {type(model).__name__}, which "
            f"compares latents with each other; got norms from {float(norms.min()):g} to "
            f"{float(norms.max()):g}. Use `to_jumprelu` first."
        )
    if is_tied(folded):
        if float((norms - 1.0).abs().max()) > EQUAL:
            raise ValueError(
                f"decoder norms cannot be folded in {type(model).__name__}, whose weights are tied."
            )
        return folded
    _multiply(folded, "W_dec", 1.0 / norms[:, None])
    _multiply(folded, "W_enc", norms)
    for name in ("b_enc", "b_mag"):
        _multiply(folded, name, norms)
    if not isinstance(model, Crosscoder):  # there selection is by code times norm already
        one_for_all = "threshold" in folded.state_dict() and folded.threshold.ndim == 0
        _multiply(folded, "threshold", norms.mean() if one_for_all else norms)
    return folded


def latent_norms(model: AbstractAutoencoder) -> Tensor:
    """Return the norm of each decoder row; in a crosscoder the sum over its hookpoints.

    Parameters
    ----------
    model : AbstractAutoencoder

    Returns
    -------
    Tensor of shape (F,)
    """
    if isinstance(model, Crosscoder):
        return model.decoder_norms().sum(0)
    return torch.linalg.vector_norm(model.W_dec.detach(), dim=1)


def check_affine(model: AbstractAutoencoder) -> None:
    """Refuse a model with parameters whose part in a change of scale is not known.

    Parameters
    ----------
    model : AbstractAutoencoder
    """
    if model.row_norm != "none":
        raise TypeError(
            f"{type(model).__name__} cannot be folded: each row has a scale of its own "
            f'(row_norm={model.row_norm!r}). Train it with normalize="none".'
        )
    other = sorted(set(model.state_dict()) - PARTS)
    if other:
        raise TypeError(
            f"{type(model).__name__} cannot be folded: how {', '.join(other)} would change with "
            'the unit of the rows is not known. Train it with normalize="none".'
        )


def is_tied(model: AbstractAutoencoder) -> bool:
    """Whether decoder and encoder are one parameter."""
    return "W_dec" not in dict(model.named_parameters())


def _selects_by_row(model: AbstractAutoencoder) -> bool:
    """Whether a latent fires or not whatever the others do, or by its contribution."""
    if isinstance(model, Crosscoder):
        return True
    if isinstance(model, Transcoder):
        return model.activation == "jumprelu"
    return "k" not in model.config() and set(model.state_dict()) <= BY_ROW


def _multiply(model: AbstractAutoencoder, name: str, factor: Tensor) -> None:
    """Multiply a parameter or buffer in place, where the model has it, rounding once."""
    tensor = model.state_dict().get(name)
    if tensor is not None:
        floating = check_floating(name, tensor)
        floating.copy_(floating.double() * factor)
