"""Tokens of any kind as padded batches for a transformer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.cache.models import Loaded
from sae.cache.texts import Documents
from sae.cache.tokens import Context, Contexts, Place, batches, padded


@dataclass(frozen=True)
class Batch:
    """Token ids with their attention mask, and which positions are spliced or ablated.

    ``targets`` are the ids as they were, and ``hidden`` says where the mask token stands in their
    place; None where nothing is hidden.
    """

    ids: Tensor
    mask: Tensor
    keep: Tensor
    targets: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Masking:
    """Which tokens a masked language model has to predict.

    Parameters
    ----------
    token : int
        What stands in their place.
    share : float
        Of the tokens of a context that are no special ones; at least one.
    seed : int
        The choice depends on it and on the ids of the context, and on nothing else.
    special_ids : frozenset of int
    """

    token: int
    share: float
    seed: int
    special_ids: frozenset[int]

    def hidden(self, ids: np.ndarray) -> np.ndarray:
        """Return which ids of a context to hide, bool."""
        found = np.zeros(len(ids), dtype=bool)
        possible = np.flatnonzero(~np.isin(ids, [*self.special_ids, self.token]))
        if len(possible):
            generator = np.random.default_rng([self.seed, *ids.tolist()])
            n_hidden = max(1, round(self.share * len(possible)))
            found[generator.choice(possible, n_hidden, replace=False)] = True
        return found


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


def in_batches(
    contexts: list[Context], max_tokens: int, masking: Masking | None = None
) -> Iterator[Batch]:
    """Yield contexts of similar length together, padded on the right.

    Parameters
    ----------
    contexts : list of Context
    max_tokens : int
        Of a batch, padding included.
    masking : Masking or None, default=None
        What to hide.
    """
    for numbers in batches(contexts, max_tokens):
        chosen = [contexts[i] for i in numbers]
        ids, mask = padded(chosen)
        keep = torch.zeros_like(mask, dtype=torch.bool)
        for row, context in enumerate(chosen):
            keep[row, : len(context.ids)] = torch.from_numpy(context.keep)
        if masking is None:
            yield Batch(ids, mask, keep, ids)
            continue
        hidden = torch.zeros_like(keep)
        for row, context in enumerate(chosen):
            hidden[row, : len(context.ids)] = torch.from_numpy(masking.hidden(context.ids))
        yield Batch(ids.masked_fill(hidden, masking.token), mask, keep, ids, hidden)


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
