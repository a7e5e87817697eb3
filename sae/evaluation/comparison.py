"""Comparison: sums over positions of how far the outputs of a changed model are from its own."""

import math
from typing import Any

from torch import Tensor, nn

from sae.evaluation.batches import Batch


class Comparison:
    """What a language model loses, batch by batch: cross-entropy, KL divergence, cosine.

    Parameters
    ----------
    kind : {"causal", "masked", "encoder"}
        A causal model predicts the next token, a masked one those that were hidden, if any were;
        an encoder has no logits.

    Examples
    --------
    >>> import torch
    >>> ids = torch.tensor([[3, 1, 2]])
    >>> batch = Batch(ids, torch.ones_like(ids), ids > 0, ids)
    >>> comparison = Comparison("causal")
    >>> comparison.start(batch, torch.zeros(1, 3, 4))
    >>> for variant in ("reconstruction", "zero", "mean"):
    ...     comparison.add(variant, torch.eye(4)[None, :3])
    >>> found = comparison.result()
    >>> found["n_tokens"], round(found["ce_original"], 4)  # log 4
    (2, 1.3863)
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.n_tokens = self.n_predicted = 0
        self.over_tokens: dict[str, float] = {}
        self.over_predicted: dict[str, float] = {}

    def start(self, batch: Batch, original: Tensor) -> None:
        """Take the original outputs of a batch, against which `add` compares.

        Parameters
        ----------
        batch : Batch
        original : Tensor of shape (batch, tokens, V)
        """
        self.where = batch.mask.bool().to(original.device)
        targets = batch.targets.to(original.device)
        self.predicted: Tensor | None = None  # which of the compared positions have a target
        if self.kind == "causal":
            self.where = self.where[:, 1:] & self.where[:, :-1]
            self.predicted = self.where[self.where]
            self.targets = targets[:, 1:][self.where]
        elif self.kind == "masked" and batch.hidden is not None:
            hidden = batch.hidden.to(original.device)
            self.predicted, self.targets = hidden[self.where], targets[hidden]
        self.original = self._at_positions(original)
        self.n_tokens += len(self.original)
        self._predict("ce_original", self.original)

    def add(self, variant: str, output: Tensor) -> None:
        """Compare the outputs of a variant on the batch of `start`.

        Parameters
        ----------
        variant : {"reconstruction", "zero", "mean"}
        output : Tensor of shape (batch, tokens, V)
        """
        rows = self._at_positions(output)
        self._predict(f"ce_{variant}", rows)
        if self.kind != "causal":
            cosines = nn.functional.cosine_similarity(self.original, rows, dim=1)
            _count(self.over_tokens, f"cosine_{variant}", cosines)
        if self.kind != "encoder":
            p, q = (logits.log_softmax(1) for logits in (self.original, rows))
            name = "kl" if variant == "reconstruction" else f"kl_{variant}"
            _count(self.over_tokens, name, (p.exp() * (p - q)).sum(1))

    def result(self) -> dict[str, Any]:
        """Return the means over positions and the shares recovered, as in `loss_recovered`."""
        found: dict[str, Any] = {"kind": self.kind, "n_tokens": self.n_tokens}
        found |= {name: total / self.n_tokens for name, total in self.over_tokens.items()}
        if self.kind != "causal":
            reached, ablated = found["cosine_reconstruction"], found["cosine_zero"]
            found["cosine_recovered"] = share(1.0, reached, ablated)
        if not self.n_predicted:
            return found
        if self.kind == "masked":
            found["n_masked"] = self.n_predicted
        losses = {name: total / self.n_predicted for name, total in self.over_predicted.items()}
        best, reached = losses["ce_original"], losses["ce_reconstruction"]
        shares = {
            "loss_recovered": share(best, reached, losses["ce_zero"]),
            "loss_recovered_mean": share(best, reached, losses["ce_mean"]),
        }
        return {**found, **losses, **shares}

    def _at_positions(self, output: Tensor) -> Tensor:
        return (output[:, :-1] if self.kind == "causal" else output)[self.where]

    def _predict(self, name: str, rows: Tensor) -> None:
        """Count the cross-entropy of the positions with a target."""
        if self.predicted is None:
            return
        losses = nn.functional.cross_entropy(rows[self.predicted], self.targets, reduction="none")
        _count(self.over_predicted, name, losses)
        self.n_predicted += len(losses) if name == "ce_original" else 0


def share(best: float, reached: float, ablated: float) -> float | None:
    """Return which part of the way from the ablated to the best value was reached.

    Parameters
    ----------
    best, reached, ablated : float

    Returns
    -------
    float or None
        None where there is no way.

    Examples
    --------
    >>> share(1.0, 1.5, 3.0), share(1.0, 1.0, 1.0)
    (0.75, None)
    """
    way = best - ablated
    return (reached - ablated) / way if abs(way) > 1e-12 and math.isfinite(way) else None


def _count(sums: dict[str, float], name: str, values: Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(values.double().sum())
