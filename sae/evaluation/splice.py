"""splice: an autoencoder in the place of the activations that it was trained on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder, ReconstructsProducts
from sae.cache.hooks import edited
from sae.evaluation.reconstruction import evaluation_mode
from sparsecode import SparseCodes

Change = Callable[[SparseCodes], SparseCodes]


@dataclass
class Splice:
    """What the block of `splice` can read and set.

    Parameters
    ----------
    keep : Tensor of shape (batch, tokens), bool, or None, default=None
        Positions to splice; the others pass as they are. None splices all. Set it before a forward
        pass to leave out padding or special tokens. In `generate` it is that of the prompt; all
        tokens that follow are spliced.
    codes : SparseCodes of shape (batch, tokens, F) or None
        The codes of the last forward pass, before any change.
    """

    keep: Tensor | None = None
    codes: SparseCodes | None = None
    _begun: tuple[Tensor, int] | None = field(default=None, init=False, repr=False)

    def positions(self, before: Tensor) -> Tensor | None:
        """Return `keep` for this forward pass, with True for tokens that have been generated.

        Parameters
        ----------
        before : Tensor of shape (batch, tokens, D)
            What the hookpoint puts out.
        """
        keep = self.keep
        if keep is None or before.ndim != 3 or keep.ndim != 2:
            return keep
        length = before.shape[1]
        begun, so_far = self._begun or (None, 0)
        # A generation with a cache of keys and values goes on with one token, without it with all.
        goes_on = begun is keep and len(keep) == len(before) and length in (1, so_far + 1)
        if keep.shape == before.shape[:2] and not (goes_on and length == 1):
            self._begun = (keep, length)
            return keep
        if not goes_on:
            return keep  # refused where it is used
        self._begun = (keep, so_far + 1)
        if length == 1:
            return torch.ones_like(keep[:, :1])
        return nn.functional.pad(keep, (0, length - keep.shape[1]), value=True)


@contextmanager
def splice(
    lm: nn.Module,
    hookpoint: str,
    model: AbstractAutoencoder,
    *,
    error: bool = False,
    change: Change | None = None,
) -> Iterator[Splice]:
    """Let a transformer go on with an autoencoder's reconstruction of its activations.

    Inside the block every forward pass of `lm`, `generate` included, takes the reconstruction in
    the place of what the hookpoint puts out. Leaving the block removes the hook.

    Parameters
    ----------
    lm : Module
        Any model, such as a transformers causal LM.
    hookpoint : str
        Name of a module as in `sae.cache.write`. For a transcoder "input+output": it reads what the
        first one puts out and replaces what the second one does.
    model : AbstractAutoencoder
    error : bool, default=False
        Whether the error of the reconstruction is added back, as a constant: the output is then
        what it was, up to rounding, while gradients pass through the codes only.
    change : callable or None, default=None
        Takes the codes and returns those that are decoded in their place. The error, if it is
        added, stays that of the codes as they were.

    Yields
    ------
    Splice
        ``.codes`` of the last forward pass, and ``.keep``, which positions to splice.

    Raises
    ------
    TypeError
        If `model` is no autoencoder, reads several hookpoints at once, or reconstructs products of
        rows.
    ValueError
        If the hookpoint is not one module (two for a transcoder), or its width is another one.

    References
    ----------
    Bricken et al. (2023), "Towards Monosemanticity", Transformer Circuits. Marks et al. (2024),
    "Sparse Feature Circuits", sec. 3.1 (the error term). arXiv:2403.19647.

    Examples
    --------
    >>> import sae
    >>> lm, model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), sae.TopK(
    ...     n_features=8, n_latents=16, k=3, seed=0
    ... )
    >>> with splice(lm, "0", model) as spliced:
    ...     out = lm(torch.ones(1, 5, 4))
    >>> spliced.codes.shape
    (1, 5, 16)
    """
    check_spliceable(model, hookpoint)
    spliced = Splice()

    def edit(read: Tensor, before: Tensor) -> Tensor:
        x = rows_of(read, model, hookpoint)
        codes = model.encode(x)
        spliced.codes = codes.detach()
        recon = model.reconstruct(x, codes)
        changed = recon if change is None else model.reconstruct(x, change(codes))
        if error:
            changed = changed + (before.to(recon.device, recon.dtype) - recon).detach()
        return kept(changed.to(before.device, before.dtype), before, spliced.positions(before))

    with evaluation_mode(model), edited(lm, hookpoint, edit):
        yield spliced


def kept(after: Tensor, before: Tensor, keep: Tensor | None) -> Tensor:
    """Return `after` at the positions to keep, all where that is None, and `before` elsewhere."""
    if after.shape != before.shape:
        raise ValueError(
            f"the reconstruction must have the shape of what it replaces, {tuple(before.shape)}; "
            f"got {tuple(after.shape)}. Is this the hookpoint of the autoencoder?"
        )
    if keep is None:
        return after
    if keep.shape != before.shape[:-1]:
        raise ValueError(
            f"`keep` must have shape (batch, tokens) = {tuple(before.shape[:-1])}; "
            f"got {tuple(keep.shape)}."
        )
    return torch.where(keep.to(before.device)[..., None], after, before)


def check_spliceable(model: AbstractAutoencoder, hookpoint: str) -> None:
    """Refuse models that cannot stand in a forward pass at this hookpoint."""
    if not isinstance(model, AbstractAutoencoder):
        raise TypeError(
            f"`model` must be an autoencoder such as sae.TopK; got {type(model).__name__}."
        )
    kind = type(model).__name__
    if isinstance(model, ReconstructsProducts):
        raise TypeError(
            f"`model` must reconstruct activations to stand in their place; {kind} reconstructs "
            "products of them."
        )
    if model.n_targets is None and len(model.row_blocks) > 1:
        raise TypeError(
            f"`model` must read one hookpoint to stand in its place; this {kind} reads "
            f"{len(model.row_blocks)}, of which the later ones depend on the earlier."
        )
    n_names = str(hookpoint).count("+") + 1
    if model.n_targets is not None and n_names != 2:
        raise ValueError(
            f"`hookpoint` must name an input and an output for {kind}, as in "
            f"'h.2.ln_2+h.2.mlp'; got {hookpoint!r}."
        )
    if model.n_targets is None and n_names != 1:
        raise ValueError(f"`hookpoint` must name one module for {kind}; got {hookpoint!r}.")


def rows_of(read: Tensor, model: AbstractAutoencoder, hookpoint: str) -> Tensor:
    """Return what was read as the autoencoder takes it."""
    if read.shape[-1] != model.n_features:
        raise ValueError(
            f"the output of hookpoint {hookpoint.partition('+')[0]!r} must have the width of the "
            f"autoencoder, n_features={model.n_features}; got {read.shape[-1]}."
        )
    return read.to(model.b_dec.device, model.b_dec.dtype)
