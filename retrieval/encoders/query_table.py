"""QueryTable: the query side of inference-free retrieval, one weight for each token."""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from retrieval.encoders.base import largest
from retrieval.encoders.lexical_model import NOTHING, checked_texts, tokenized
from sparsecode._checks import check_int

UNSEEN = 1.0  # the weight of a token that the table of idf does not hold


class QueryTable(nn.Module):
    """Weights of tokens that a query looks up: ``q_j = 1[token j is in it] relu(idf_j)``.

    A token counts once however often it occurs, and special tokens have weight 0.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    n_tokens : int
        Size of the vocabulary.
    idf : mapping of str to float, path of a JSON file (or .json.gz), or None, default=None
        The weights by token; tokens that are missing have weight 1, as all have with None.
    learn : bool, default=False
        Whether training changes the weights.
    max_length : int or None, default=None
        Tokens of a query that are read; None takes those that the tokenizer allows.

    References
    ----------
    Geng et al. (2024), "Towards Competitive Search Relevance For Inference-Free Learned Sparse
    Retrievers". arXiv:2411.04403.
    """

    idf: Tensor
    special: Tensor

    def __init__(
        self,
        tokenizer: Any,
        n_tokens: int,
        idf: Any = None,
        *,
        learn: bool = False,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        if max_length is not None:
            max_length = check_int("max_query_length", max_length, low=1)
        self.max_length = max_length
        weights = torch.full((n_tokens,), UNSEEN)
        known = read_idf(idf)
        if known:
            vocabulary = tokenizer.get_vocab()
            for token, value in known.items():
                if token in vocabulary and vocabulary[token] < n_tokens:
                    weights[vocabulary[token]] = float(value)
        if not bool(torch.isfinite(weights).all()):
            raise ValueError("`idf` must hold finite weights; got NaN or infinity.")
        self.idf = nn.Parameter(weights, requires_grad=learn)
        special = torch.zeros(n_tokens, dtype=torch.bool)
        special[[i for i in tokenizer.all_special_ids if i < n_tokens]] = True
        self.register_buffer("special", special, persistent=False)

    @property
    def weights(self) -> Tensor:
        """The weight of each token, shape (V,)."""
        return self.idf.relu().masked_fill(self.special, 0.0)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of queries from their token ids, which -1 fills up, (N, L) -> (N, V)."""
        there = ids != NOTHING
        present = torch.zeros(len(ids), len(self.idf), dtype=self.idf.dtype, device=ids.device)
        present.scatter_reduce_(1, ids.clamp(min=0), there.to(present.dtype), reduce="amax")
        return present * self.weights

    @torch.no_grad()
    def encode(self, texts: Sequence[str], k: int | None) -> scipy.sparse.csr_matrix:
        """Return the rows of queries as CSR; no model runs, so they may be long."""
        found = tokenized(self.tokenizer, checked_texts(texts), self.max_length, special=False)
        ids = [np.unique(row) for row in found]
        indptr = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int32)
        columns = np.concatenate([*ids, np.empty(0)]).astype(np.int32)
        values = self.weights.cpu().numpy().astype(np.float32)[columns]
        rows = scipy.sparse.csr_matrix((values, columns, indptr), shape=(len(ids), len(self.idf)))
        rows.eliminate_zeros()
        return largest(rows, k)


def read_idf(idf: Any) -> dict[str, float]:
    """Return weights by token from a mapping or a JSON file; None gives none.

    Parameters
    ----------
    idf : mapping, path or None
    """
    if idf is None:
        return {}
    if isinstance(idf, Mapping):
        return dict(idf)
    path = Path(idf)
    if not path.is_file():
        raise FileNotFoundError(f"`idf` must be a mapping or an existing file; got {str(path)!r}.")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found = json.loads(raw)
    if not isinstance(found, dict):
        raise ValueError(f"`idf` must hold weights by token; got {type(found).__name__} in {path}.")
    return found


def inverse_document_frequencies(
    texts: Sequence[str], tokenizer: Any, *, max_length: int = 512
) -> dict[str, float]:
    """Return the idf of the tokens of a collection, for `QueryTable` and the encoders with one.

    ``ln(1 + (N - df + 1/2) / (df + 1/2))``, as in BM25. Tokens of no text have that of ``df = 0``.

    Parameters
    ----------
    texts : sequence of str
    tokenizer : transformers tokenizer
    max_length : int, default=512
        Tokens of a text that are read.

    Returns
    -------
    dict of str to float
    """
    texts = checked_texts(texts)
    counts: dict[int, int] = {}
    for row in tokenized(tokenizer, texts, max_length):
        for token in set(row):
            counts[token] = counts.get(token, 0) + 1
    n = len(texts)
    return {
        token: math.log(1 + (n - counts.get(i, 0) + 0.5) / (counts.get(i, 0) + 0.5))
        for token, i in tokenizer.get_vocab().items()
    }
