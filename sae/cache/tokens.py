"""From documents to padded batches: contexts, pools of contexts, batches of similar length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae.cache.texts import Document, Documents, next_digest

_GROUP = 256  # documents given to the tokenizer at a time


@dataclass(frozen=True)
class Place:
    """A place in the texts: documents begun, contexts of the last one done, digest of all begun."""

    documents: int = 0
    contexts: int = 0
    digest: bytes = b""


@dataclass(frozen=True)
class Context:
    """Tokens that the model sees together.

    ``keep`` marks those whose activations are wanted, ``after`` is the place right behind it, and
    ``done`` the share of the texts read when its document was.
    """

    ids: np.ndarray
    keep: np.ndarray
    after: Place
    done: float


class Contexts:
    """Cuts documents into contexts.

    Parameters
    ----------
    tokenizer : transformers tokenizer or None
        None if all documents are token ids.
    context_length : int
        Most tokens of a context, special tokens included.
    special_ids : set of int
        Tokens whose rows are not kept.
    pad_id : int or None
        Runs of it at either end of token ids are padding and are cut off.
    n_tokens : int or None
        Size of the model's vocabulary, to check token ids.

    Attributes
    ----------
    place : Place
        How far `of` has read; it reads ahead of what it yields.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        context_length: int,
        special_ids: set[int],
        pad_id: int | None = None,
        n_tokens: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._special_ids = np.array(sorted(special_ids), dtype=np.int64)
        self._pad_id = pad_id
        self._n_tokens = n_tokens
        self._prefix, self._suffix = special_frame(tokenizer)
        self._length = context_length
        self.place = Place()
        n_special = len(self._prefix) + len(self._suffix)
        if context_length <= n_special:
            raise ValueError(
                f"`context_length` must exceed the {n_special} special tokens that the tokenizer "
                f"adds; got {context_length}."
            )

    def of(self, documents: Documents, start: Place) -> Iterator[Context]:
        """Yield the contexts behind `start`; in the end `place` is the end of the documents."""
        place = self.place = Place()
        for group in _grouped(documents):
            skip = start.documents - 1 - place.documents
            tokenized = self._tokenized([document for document, _ in group], skip)
            for (document, share), ids in zip(group, tokenized, strict=True):
                digest = next_digest(place.digest, document)
                place = self.place = Place(place.documents + 1, 0, digest)
                if place.documents < start.documents:
                    continue
                if place.documents == start.documents and place.digest != start.digest:
                    raise ValueError(
                        "`texts` must be the same as in the interrupted call; one of the first "
                        f"{start.documents} documents differs. Pass the same texts or another "
                        "folder."
                    )
                done = start.contexts if place.documents == start.documents else 0
                for number, framed in enumerate(self._cut(document, ids), 1):
                    self.place = Place(place.documents, number, place.digest)
                    if number > done:
                        keep = ~np.isin(framed, self._special_ids)
                        yield Context(framed, keep, self.place, share)
        if place.documents < start.documents:
            raise ValueError(
                f"`texts` must be the same as in the interrupted call; it had at least "
                f"{start.documents} documents, these are {place.documents}. Pass the same texts or "
                "another folder."
            )

    def _tokenized(self, group: Sequence[Document], skip: int) -> list[np.ndarray]:
        """Return the token ids of each document; the first `skip` were done before."""
        texts = [_unicode(text) for text in group[max(skip, 0) :] if isinstance(text, str)]
        if texts and self._tokenizer is None:
            raise ValueError(
                "`tokenizer` must be given where `texts` are strings and the model comes without "
                "one; got None. Pass the model's tokenizer, or token ids."
            )
        lists = iter(
            self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            if texts
            else []
        )
        none = np.zeros(0, dtype=np.int64)
        ids = []
        for number, document in enumerate(group):
            if number < skip:
                ids.append(none)
            elif isinstance(document, str):
                ids.append(np.asarray(next(lists), dtype=np.int64))
            else:
                ids.append(self._checked(self._without_padding(document)))
        return ids

    def _cut(self, document: Document, ids: np.ndarray) -> Iterator[np.ndarray]:
        prefix, suffix = (self._prefix, self._suffix) if isinstance(document, str) else ([], [])
        room = self._length - len(prefix) - len(suffix)
        for start in range(0, len(ids), room):
            yield np.concatenate([prefix, ids[start : start + room], suffix]).astype(np.int64)

    def _without_padding(self, ids: np.ndarray) -> np.ndarray:
        real = (
            np.flatnonzero(ids != self._pad_id) if self._pad_id is not None else np.arange(len(ids))
        )
        return ids[real[0] : real[-1] + 1] if len(real) else ids[:0]

    def _checked(self, ids: np.ndarray) -> np.ndarray:
        high = self._n_tokens
        if len(ids) and (ids.min() < 0 or (high is not None and ids.max() >= high)):
            worst = int(ids.min() if ids.min() < 0 else ids.max())
            raise ValueError(
                f"token ids in `texts` must lie in the vocabulary of the model, "
                f"[0, {high}); got {worst}."
            )
        return ids


def special_frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts in front of a text and behind it."""
    if tokenizer is None:
        return [], []
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    framed = list(tokenizer("a")["input_ids"])
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []


def next_pool(contexts: Iterator[Context], max_tokens: int, max_kept: int) -> list[Context]:
    """Take contexts until they have `max_tokens` tokens, or `max_kept` that are wanted."""
    pool: list[Context] = []
    tokens = kept = 0
    while tokens < max_tokens and kept < max_kept and (context := next(contexts, None)) is not None:
        pool.append(context)
        tokens += len(context.ids)
        kept += int(context.keep.sum())
    return pool


def batches(pool: Sequence[Context], max_tokens: int) -> Iterator[np.ndarray]:
    """Yield the numbers of the contexts of each batch: similar lengths together, longest first.

    A batch has at most `max_tokens` tokens, its padding included.
    """
    order = np.argsort([-len(context.ids) for context in pool], kind="stable")
    start = 0
    while start < len(order):
        size = max(1, max_tokens // len(pool[order[start]].ids))
        yield order[start : start + size]
        start += size


def padded(contexts: Sequence[Context]) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, (batch, tokens) int64, padded with 0 on the right."""
    ids = np.zeros((len(contexts), max(len(context.ids) for context in contexts)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, context in enumerate(contexts):
        ids[row, : len(context.ids)] = context.ids
        mask[row, : len(context.ids)] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _unicode(text: str) -> str:
    """Return a text without halves of surrogate pairs: JSON may hold them, no tokenizer does."""
    return (
        text if text.isascii() else text.encode("utf-8", "surrogatepass").decode(errors="replace")
    )


def _grouped(documents: Documents) -> Iterator[list[tuple[Document, float]]]:
    """Yield groups of documents for the tokenizer, each with the share of the texts read."""
    group: list[tuple[Document, float]] = []
    for document in documents:
        group.append((document, documents.done))
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group
