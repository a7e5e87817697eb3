"""Scoring, one query and one list at a time in float64: this file defines the operation."""

import torch
from torch import Tensor

from sparsecode.ops.scoring.postings import Postings


def score_topk(
    values: Tensor, dims: Tensor, crow: list[int], postings: Postings, k: int, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the largest scores, float32 (Q, k), and their rows, int64, of canonical queries."""
    n_queries = len(crow) - 1
    scores = torch.full((n_queries, k), -torch.inf, device=postings.device)
    rows = torch.full((n_queries, k), -1, dtype=torch.long, device=postings.device)
    for query in range(n_queries):
        own = slice(crow[query], crow[query + 1])
        total, matched = all_scores(values[own], dims[own], postings)
        found = (matched if mask is None else matched & mask).nonzero().flatten()
        best, order = total[found].sort(descending=True, stable=True)  # found ascends
        n_found = min(k, found.numel())
        scores[query, :n_found], rows[query, :n_found] = best[:k], found[order[:k]]
    return scores, rows


def score_rows(
    values: Tensor, dims: Tensor, crow: list[int], postings: Postings, rows: Tensor
) -> Tensor:
    """Return the scores of given rows, float32 (Q, C); -inf where there is no match or row."""
    scores = torch.full(rows.shape, -torch.inf, device=postings.device)
    for query in range(rows.shape[0]):
        own = slice(crow[query], crow[query + 1])
        total, matched = all_scores(values[own], dims[own], postings)
        if postings.n_documents:
            safe = rows[query].clamp(min=0)
            found = (rows[query] >= 0) & matched[safe]
            scores[query] = torch.where(found, total[safe], -torch.inf)
    return scores


def all_scores(values: Tensor, dims: Tensor, postings: Postings) -> tuple[Tensor, Tensor]:
    """Return the score of every document, float32, and whether it shares a dimension.

    Products are added in float64 in ascending order of dimension and rounded once at the end.
    """
    total = torch.zeros(postings.n_documents, dtype=torch.float64, device=postings.device)
    matched = torch.zeros(postings.n_documents, dtype=torch.bool, device=postings.device)
    for dim, value in zip(dims.tolist(), values.double(), strict=True):
        own = slice(int(postings.offsets[dim]), int(postings.offsets[dim + 1]))
        documents = postings.documents[own].long()
        total[documents] += value * postings.values[own].double()  # no document twice in a list
        matched[documents] = True
    if postings.scales is not None:
        total *= postings.scales.double()
    return total.float(), matched
