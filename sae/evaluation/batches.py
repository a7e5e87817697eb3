"""Tokens of any kind as padded batches for a transformer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae.cache.models import Loaded
from sae.cache.texts import Documents
from sae.cache.tokens import Context, Contexts, Place, batches, padded


@dataclass(frozen=True)
class Batch:
    """Token ids with their attention mask, and which positions are spliced or ablated."""

    ids: Tensor
    mask: Tensor
    keep: Tensor


def contexts_of(
    loaded: Loaded, tokens: Any, context_length: int | None, skip_special_tokens: bool
) -> Iterator[Context]:
    """Yield the contexts that a model is run on, without padding.

    Parameters
    ----------
    loaded : Loaded
    tokens : tensor, lists, mapping, texts or paths
    context_length : int or None
    skip_special_tokens : bool
        Whether special tokens are marked as not to be kept.
    """
    plain = _without_padding(tokens)
    first = plain[0] if isinstance(plain, list) and plain else None
    if context_length is None and first is not None and not isinstance(first, str):
        context_length = loaded.longest_context or max(map(len, plain))
    contexts = Contexts(
        loaded.tokenizer,
        context_length=loaded.context_length(context_length),
        special_ids=loaded.special_ids if skip_special_tokens else set(),
        pad_id=loaded.pad_id,
        n_tokens=loaded.n_tokens,
    )
    yield from contexts.of(Documents(plain), Place())


def in_batches(contexts: list[Context], max_tokens: int) -> Iterator[Batch]:
    """Yield contexts of similar length together, padded on the right.

    Parameters
    ----------
    contexts : list of Context
    max_tokens : int
        Of a batch, padding included.
    """
    for numbers in batches(contexts, max_tokens):
        chosen = [contexts[i] for i in numbers]
        ids, mask = padded(chosen)
        keep = torch.zeros_like(mask, dtype=torch.bool)
        for row, context in enumerate(chosen):
            keep[row, : len(context.ids)] = torch.from_numpy(context.keep)
        yield Batch(ids, mask, keep)


def _without_padding(tokens: Any) -> Any:
    """Return the ids of each row that the attention mask of a tokenizer's output keeps."""
    if isinstance(tokens, Mapping):
        if "input_ids" not in tokens:
            raise ValueError(
                f"`tokens` must hold 'input_ids' where it is a mapping; got {sorted(tokens)}."
            )
        ids = tokens["input_ids"]
        masks = tokens.get("attention_mask")
        if masks is None:
            return list(ids)
        rows = zip(ids, masks, strict=True)
        return [torch.as_tensor(row)[torch.as_tensor(mask).bool()] for row, mask in rows]
    if isinstance(tokens, Tensor):
        return list(tokens[None] if tokens.ndim == 1 else tokens)
    return [tokens] if isinstance(tokens, str) and not tokens.endswith((".txt", ".gz")) else tokens
