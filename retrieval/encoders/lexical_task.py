"""The loss of encoders of text: ranking, and the FLOPs regularizer with or without the l0 mask."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from retrieval import losses
from retrieval.encoders.lexical_model import LexicalModel, checked_texts
from retrieval.encoders.query_table import QueryTable
from retrieval.encoders.rows import SideBySide, check_trainable
from retrieval.schedules import RAMPS, Ramp, ramp
from sparsecode._checks import check_choice, check_float, check_int
from sparsecode.decomposition.rows import choose_device
from sparsecode.solvers.base import codes_of
from sparsecode.training import AbstractTask, StepLosses, TrainConfig, train

LOSSES = ("info_nce", "margin_mse", "kl")


@dataclass(frozen=True, kw_only=True)
class LexicalTraining:
    """Settings of the training of an encoder of text, checked when they are made."""

    loss: Literal["info_nce", "margin_mse", "kl"] = "info_nce"
    """What orders scores: the right document among those of the batch, or a teacher's scores of the
    documents of each query, as margins or as a distribution."""

    temperature: float = 1.0
    """What scores are divided by."""

    document_weight: float = 0.01
    """Of the FLOPs regularizer of documents; 0.02 to 0.08 with teachers on large collections."""

    query_weight: float = 0.01
    """Of that of queries, where a model encodes them."""

    threshold: int | None = None
    """Tokens that a document may have for nothing (l0 mask); None regularizes all documents."""

    ramp: Ramp = "quadratic"
    """How the weights rise."""

    ramp_share: float = 1 / 3
    """Share of the steps over which they do."""

    max_steps: int = 1000
    """Optimizer steps."""

    batch_size: int = 16
    """Queries of a step."""

    lr: float = 2e-5
    """Highest learning rate."""

    idf_lr: float = 1e-3
    """That of a query table that is learned."""

    random_state: int = 0
    """Of the order of the queries, and of dropout."""

    progress: bool = False
    """Whether to show a progress bar."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_choice("loss", self.loss, LOSSES)
        check_choice("ramp", self.ramp, RAMPS)
        for name in ("temperature", "lr", "idf_lr"):
            check_float(name, getattr(self, name), low=0.0, open_low=True)
        for name in ("document_weight", "query_weight"):
            check_float(name, getattr(self, name), low=0.0)
        check_float("ramp_share", self.ramp_share, low=0.0, high=1.0)
        if self.threshold is not None:
            check_int("threshold", self.threshold, low=0)
        for name in ("max_steps", "batch_size"):
            check_int(name, getattr(self, name), low=1)
        check_int("random_state", self.random_state, low=0)


class LexicalTask(AbstractTask):
    """An encoder of text as the training loop sees it.

    A row of data holds the tokens of a query, those of its documents, and a teacher's scores of
    them.

    Parameters
    ----------
    documents : LexicalModel
    queries : QueryTable or None
        None encodes queries by the model of the documents.
    settings : LexicalTraining
    widths : tuple of int
        Tokens of a query and of a document, documents of a query, scores of a query.
    """

    def __init__(
        self,
        documents: LexicalModel,
        queries: QueryTable | None,
        settings: LexicalTraining,
        widths: tuple[int, int, int, int],
    ) -> None:
        parts: dict[str, nn.Module] = {"documents": documents}
        if queries is not None:
            parts["queries"] = queries
        self.module, self.n_latents = nn.ModuleDict(parts), documents.n_tokens
        self.constants: dict[str, Any] = {}
        self._documents, self._queries = documents, queries
        self._settings, self._widths, self._factor = settings, widths, 0.0

    def start(self, sample: Tensor) -> None:
        """Need nothing of the data."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the weights of the model, and the query table where it is learned."""
        groups: list[dict[str, Any]] = [{"params": list(self._documents.parameters())}]
        if self._queries is not None and self._queries.idf.requires_grad:
            scale = self._settings.idf_lr / self._settings.lr
            groups.append({"params": [self._queries.idf], "lr_scale": scale})
        return groups

    def set_progress(self, progress: float) -> None:
        """Follow the ramp of the regularizers."""
        settings = self._settings
        self._factor = ramp(progress, share=settings.ramp_share, kind=settings.ramp)

    def scheduled(self) -> dict[str, float]:
        """Return the present weight of the documents' regularizer."""
        return {"weight": self._settings.document_weight * self._factor}

    def losses(self, batch: Tensor, dead_latents: Tensor | None) -> StepLosses:
        """Return the ranking loss plus the weighted regularizers."""
        settings = self._settings
        n_query, n_document, n_slots, _ = self._widths
        query_ids = batch[:, :n_query].long()
        end = n_query + n_slots * n_document
        document_ids = batch[:, n_query:end].reshape(-1, n_document).long()
        d = self._documents(document_ids).reshape(len(batch), n_slots, -1)  # (N, G, V)
        q = self._documents(query_ids) if self._queries is None else self._queries(query_ids)
        terms = {
            "rank": self._rank(q, d, batch[:, end:]),
            "documents": losses.flops(d, threshold=settings.threshold)
            * (settings.document_weight * self._factor),
        }
        if self._queries is None:
            terms["queries"] = losses.flops(q) * (settings.query_weight * self._factor)
        observed = {f"loss/{name}": term for name, term in terms.items()}
        total = torch.stack(list(terms.values())).sum()
        return StepLosses(total, observed, codes_of(d.detach().flatten(0, 1)))

    def evaluate(self) -> dict[str, Any] | None:
        """Return None: rankings are evaluated from outside."""
        return None

    def _rank(self, q: Tensor, d: Tensor, teacher: Tensor) -> Tensor:
        settings = self._settings
        if settings.loss == "info_nce":
            columns = d.transpose(0, 1).flatten(0, 1)  # all first documents, then all second ones
            return losses.info_nce(q @ columns.t() / settings.temperature)
        scores = torch.einsum("nv,ngv->ng", q, d)
        if settings.loss == "margin_mse":
            return losses.margin_mse(scores / settings.temperature, teacher)
        return losses.kl_divergence(scores, teacher, temperature=settings.temperature)


def train_lexical(
    documents: LexicalModel,
    queries: QueryTable | None,
    texts: tuple[Any, Any, Any],
    teacher: Any,
    settings: LexicalTraining,
    device: str,
) -> list[dict[str, Any]]:
    """Train an encoder of text on queries with their documents.

    Parameters
    ----------
    documents : LexicalModel
    queries : QueryTable or None
    texts : tuple
        Queries, the document of each, and other documents of each, or None.
    teacher : array of shape (n_queries, 1 + n_negatives) or None
    settings : LexicalTraining
    device : str

    Returns
    -------
    list of dict
        The rows of metrics.
    """
    check_trainable("model", documents.mlm)
    asked, right, wrong = texts
    asked, right = checked_texts(asked), checked_texts(right)
    groups = [[text] for text in right]
    if wrong is not None:
        others = [[one] if isinstance(one, str) else checked_texts(one) for one in wrong]
        if len(others) != len(groups) or len({len(one) for one in others}) > 1:
            raise ValueError(
                "`negatives` must hold equally many documents for each query; got "
                f"{len(others)} entries of {sorted({len(one) for one in others})} documents for "
                f"{len(groups)} queries."
            )
        groups = [[*first, *rest] for first, rest in zip(groups, others, strict=True)]
    if len(asked) != len(groups) or not asked:
        raise ValueError(
            "`queries` and `documents` must hold a document for each query; got "
            f"{len(asked)} queries and {len(groups)} documents."
        )
    n_slots = len(groups[0])
    query_rows = documents.token_rows(asked)
    flat = documents.token_rows([text for group in groups for text in group])
    parts = [query_rows, flat.reshape(len(groups), -1)]
    scores = _teacher_scores(teacher, settings.loss, (len(groups), n_slots))
    parts += [] if scores is None else [scores]
    widths = (query_rows.shape[1], flat.shape[1], n_slots, 0 if scores is None else n_slots)
    task = LexicalTask(documents, queries, settings, widths)
    placed = choose_device(device)
    task.module.to(placed).train()
    config = TrainConfig(
        n_steps=settings.max_steps,
        batch_size=min(settings.batch_size, len(groups)),
        lr=settings.lr,
        seed=settings.random_state,
        device=str(placed),
        progress=settings.progress,
    )
    try:
        _, metrics = train(task, SideBySide(*parts), config)
    finally:
        task.module.eval()
    return metrics.history


def _teacher_scores(teacher: Any, loss: str, shape: tuple[int, int]) -> np.ndarray | None:
    if loss == "info_nce":
        return None
    if teacher is None or shape[1] < 2:
        raise ValueError(
            f"`loss={loss!r}` needs `negatives` and a `teacher` that scores each document; "
            f"got {'no teacher' if teacher is None else 'no negatives'}."
        )
    scores = np.asarray(teacher, dtype=np.float32)
    if scores.shape != shape:
        raise ValueError(
            f"`teacher` must have shape (n_queries, 1 + n_negatives) = {shape}; got {scores.shape}."
        )
    return scores
