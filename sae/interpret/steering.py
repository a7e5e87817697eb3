"""steer and ablate: a transformer that runs with some latents moved."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder
from sae.cache.hooks import edited
from sae.evaluation.reconstruction import evaluation_mode
from sae.evaluation.splice import Splice, check_spliceable, kept, rows_of
from sae.row_norm import decoder_factor
from sparsecode import SparseCodes
from sparsecode._checks import check_choice, check_float, check_int

MODES = ("add", "clamp", "scale", "zero")
Mode = Literal["add", "clamp", "scale", "zero"]


@contextmanager
def steer(
    lm: nn.Module,
    hookpoint: str,
    model: AbstractAutoencoder,
    latent: int | Sequence[int],
    scale: float | Sequence[float] = 1.0,
    *,
    mode: Mode = "add",
) -> Iterator[Splice]:
    """Move latents in every forward pass of a transformer, `generate` included.

    The activation y becomes ``y + sum_i (b_i - a_i) W_dec[i]`` over the chosen latents, whose
    values ``a_i`` become ``b_i``. Everything else, the error of the autoencoder included, stays.
    Where the model normalizes each row, the change is in the unit of the row, as what it decodes.

    Parameters
    ----------
    lm : Module
        Any model, such as a transformers causal LM.
    hookpoint : str
        Where the autoencoder was trained; "input+output" for a transcoder.
    model : AbstractAutoencoder
    latent : int or sequence of int
    scale : float or sequence of float, default=1.0
        One for all latents, or one for each.
    mode : {"add", "clamp", "scale", "zero"}, default="add"
        ``b = a + scale``, on every token; ``b = scale``; ``b = scale * a``; or ``b = 0``, which
        takes no scale.

    Yields
    ------
    Splice
        ``.codes`` of the last forward pass, before the change (None with "add", which needs
        none), and ``.keep``, the positions to steer, as of `sae.splice`; None steers all.

    Raises
    ------
    TypeError
        If `model` is no autoencoder, reads several hookpoints at once, or reconstructs products of
        rows.
    ValueError
        If a latent does not exist, `scale` has another length, or the hookpoint does not fit.

    References
    ----------
    Templeton et al. (2024), "Scaling Monosemanticity", Transformer Circuits (clamping, with the
    error term kept). Turner et al. (2023), "Steering Language Models With Activation Engineering".
    arXiv:2308.10248.

    Examples
    --------
    >>> import sae
    >>> lm, model = nn.Identity(), sae.TopK(n_features=4, n_latents=8, k=2, seed=0)
    >>> with steer(nn.ModuleDict({"a": lm}), "a", model, latent=3, scale=2.0):
    ...     out = lm(torch.zeros(1, 1, 4))
    >>> torch.equal(out[0, 0], 2.0 * model.W_dec[3])
    True
    """
    check_spliceable(model, hookpoint)
    check_choice("mode", mode, MODES)
    latents = _latents(latent, model.n_latents)
    scales = _scales(scale, len(latents))
    steered = Splice()

    def edit(read: Tensor, before: Tensor) -> Tensor:
        rows = model.W_dec[latents]
        x = rows_of(read, model, hookpoint)
        wanted = scales.to(rows.device, rows.dtype)
        if mode == "add":
            change = wanted.expand(*before.shape[:-1], -1)
        else:
            codes = model.encode(x)
            steered.codes = codes.detach()
            values = values_of(codes, latents)
            change = wanted - values if mode == "clamp" else (wanted - 1) * values
        moved = change @ rows * decoder_factor(x, model.row_norm)
        after = before + moved.to(before.device, before.dtype)
        return kept(after, before, steered.positions(before))

    if mode == "zero":
        scales = torch.zeros(len(latents))
    with evaluation_mode(model), edited(lm, hookpoint, edit):
        yield steered


@contextmanager
def ablate(
    lm: nn.Module, hookpoint: str, model: AbstractAutoencoder, latents: int | Sequence[int]
) -> Iterator[Splice]:
    """Take latents out of what a transformer computes: `steer` with ``mode="zero"``.

    Parameters
    ----------
    lm : Module
    hookpoint : str
    model : AbstractAutoencoder
    latents : int or sequence of int

    Yields
    ------
    Splice
    """
    with steer(lm, hookpoint, model, latents, mode="zero") as steered:
        yield steered


def values_of(codes: SparseCodes, latents: Tensor) -> Tensor:
    """Return the values of some latents, shape (..., L); 0 where one did not fire.

    Parameters
    ----------
    codes : SparseCodes of shape (..., F)
    latents : Tensor of shape (L,), int64
    """
    fixed = codes.to_fixed()
    latents = latents.to(fixed.device)
    hits = [(fixed.values * (fixed.indices == latent)).sum(-1) for latent in latents]
    return torch.stack(hits, -1)


def _latents(latent: int | Sequence[int], n_latents: int) -> Tensor:
    latent = latent.tolist() if isinstance(latent, Tensor) else latent
    several = latent if isinstance(latent, Sequence) else [latent]
    bounds = {"low": 0, "high": n_latents - 1, "high_name": "n_latents - 1"}
    checked = [check_int("latent", entry, **bounds) for entry in several]
    if not checked or len(set(checked)) != len(checked):
        raise ValueError(f"`latent` must be one or more different latents; got {checked}.")
    return torch.tensor(checked)


def _scales(scale: float | Sequence[float], n: int) -> Tensor:
    scale = scale.tolist() if isinstance(scale, Tensor) else scale
    several = list(scale) if isinstance(scale, Sequence) else [scale] * n
    if len(several) != n:
        raise ValueError(
            f"`scale` must be one number, or one for each of {n} latents; got {scale}."
        )
    return torch.tensor([check_float("scale", entry) for entry in several])
