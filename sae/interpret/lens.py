"""Logit lens: the tokens that a latent's decoder row speaks for."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder
from sparsecode._checks import check_int, check_last_dim

N_BARS = 50


@dataclass(frozen=True)
class LogitLens:
    """What `logit_lens` returns for L latents.

    Parameters
    ----------
    top_tokens, top_logits : Tensor of shape (L, n), int64 and float32
        The tokens that a latent promotes most, descending.
    bottom_tokens, bottom_logits : Tensor of shape (L, n), int64 and float32
        Those that it suppresses most, ascending.
    bar_centers, bar_counts : Tensor of shape (L, 50), float32 and int64
        Histogram of the logits of the whole vocabulary, from the smallest to the largest.
    """

    top_tokens: Tensor
    top_logits: Tensor
    bottom_tokens: Tensor
    bottom_logits: Tensor
    bar_centers: Tensor
    bar_counts: Tensor


@torch.no_grad()
def logit_lens(
    lm: nn.Module,
    model: AbstractAutoencoder,
    latents: Tensor | None = None,
    *,
    n: int = 10,
    final_norm: bool = True,
    chunk_size: int = 256,
) -> LogitLens:
    """Read decoder rows with the transformer's own output layer.

    The logits of a row are ``(norm(row) - norm(0)) W_U``, less their mean over the vocabulary,
    which a softmax does not see.

    Parameters
    ----------
    lm : Module
        A transformers model with an output embedding.
    model : AbstractAutoencoder
        Of a hookpoint in the residual stream.
    latents : Tensor of shape (L,), int64, or None, default=None
        None reads all.
    n : int, default=10
        Tokens at either end.
    final_norm : bool, default=True
        Whether the norm in front of the output layer is applied, with its weights; the row is then
        read at the size that the norm gives it.
    chunk_size : int, default=256
        Rows read at a time; (chunk_size, vocabulary) is the largest matrix that is held.

    Returns
    -------
    LogitLens

    Raises
    ------
    ValueError
        If `lm` has no output embedding, or the width of the decoder is another one.

    References
    ----------
    nostalgebraist (2020), "interpreting GPT: the logit lens". Bloom (2024), "Understanding SAE
    Features with the Logit Lens". Differs from the latter in: the final norm.
    """
    chunk_size = check_int("chunk_size", chunk_size, low=1)
    rows = model.W_dec if latents is None else model.W_dec[latents]
    n = check_int("n", n, low=1)
    pieces = []
    for chunk in rows.split(chunk_size):
        logits = direction_logits(lm, chunk, final_norm=final_norm)
        size = min(n, logits.shape[1])
        top, bottom = logits.topk(size, dim=1), logits.topk(size, dim=1, largest=False)
        bars = _histogram(logits)
        pieces.append([top.indices, top.values, bottom.indices, bottom.values, *bars])
    return LogitLens(*(torch.cat(parts).cpu() for parts in zip(*pieces, strict=True)))


@torch.no_grad()
def direction_logits(lm: nn.Module, rows: Tensor, *, final_norm: bool = True) -> Tensor:
    """Return the centered logits of directions in the residual stream.

    Parameters
    ----------
    lm : Module
    rows : Tensor of shape (L, D)
    final_norm : bool, default=True

    Returns
    -------
    Tensor of shape (L, vocabulary), float32
    """
    head = _head(lm)
    check_last_dim("W_dec", rows, head.weight.shape[-1], "width of the output embedding")
    weight = head.weight
    norm = _final_norm(lm, weight.shape[-1]) if final_norm else None
    directions = rows.detach().to(weight.device, weight.dtype)
    if norm is not None:
        directions = norm(directions) - norm(torch.zeros_like(directions[:1]))
    logits = (directions.to(weight.dtype) @ weight.t()).float()
    return logits - logits.mean(1, keepdim=True)


def _histogram(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centers of equal bins between the ends of each row, and what falls into them."""
    low, high = logits.amin(1, keepdim=True), logits.amax(1, keepdim=True)
    width = (high - low).clamp(min=1e-12) / N_BARS
    places = ((logits - low) / width).long().clamp(0, N_BARS - 1)
    counts = torch.zeros(len(logits), N_BARS, dtype=torch.int64, device=logits.device)
    counts.scatter_add_(1, places, torch.ones_like(places))
    middles = torch.arange(N_BARS, device=logits.device) + 0.5
    return low + width * middles, counts


def _head(lm: nn.Module) -> Any:
    find = getattr(lm, "get_output_embeddings", None)
    head = None if find is None else find()
    if head is None:
        raise ValueError(
            f"`lm` must have an output embedding, as causal and masked transformers models do; "
            f"{type(lm).__name__} has none. Load it with AutoModelForCausalLM."
        )
    return head


def _final_norm(lm: nn.Module, width: int) -> nn.Module | None:
    """Return the last norm of the model's body that stands beside its layers, if there is one."""
    body = getattr(lm, "base_model", lm)
    parts = [
        body,
        *(child for child in body.children() if child.__class__.__name__.endswith("Decoder")),
    ]
    norms = [
        child
        for part in parts
        for child in part.children()
        if "norm" in type(child).__name__.lower()
        and any(parameter.shape == (width,) for parameter in child.parameters(recurse=False))
    ]
    return norms[-1] if norms else None
