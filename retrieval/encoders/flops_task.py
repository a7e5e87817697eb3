"""The loss of a siamese sparse encoder: what orders scores, and what keeps activations few."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from retrieval import losses
from retrieval.encoders.projection import SparseProjection
from retrieval.schedules import RAMPS, Ramp, Steered, ramp
from sparsecode._checks import check_choice, check_float
from sparsecode.solvers.base import codes_of
from sparsecode.training import AbstractTask, StepLosses

Kind = Literal["rows", "labels", "pairs", "triplets"]
LOSSES: dict[str, tuple[str, ...]] = {
    "rows": ("distillation",),
    "labels": ("triplet", "angular_margin", "contrastive"),
    "pairs": ("contrastive", "distillation"),
    "triplets": ("contrastive", "triplet"),
}
REGULARIZERS = ("flops", "l1")


@dataclass(frozen=True, kw_only=True)
class FlopsSettings:
    """Numbers of the loss, checked when they are made."""

    regularizer: Literal["flops", "l1"]
    """What keeps activations few."""

    weight: float
    """Its weight, or that at the start where it is steered."""

    target_active: float | None
    """Entries of a row that the weight is steered to; None leaves it."""

    ramp: Ramp
    """How the weight rises."""

    ramp_share: float
    """Share of the steps over which it does."""

    loss: str
    """What orders scores; "auto" takes the first that the data allow."""

    temperature: float
    """What cosines are divided by."""

    margin: float
    """Of triplets, and of angles."""

    scale: float
    """What cosines of classes are multiplied by under an angular margin."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_choice("regularizer", self.regularizer, REGULARIZERS)
        check_choice("ramp", self.ramp, RAMPS)
        known = sorted({name for names in LOSSES.values() for name in names})
        check_choice("loss", self.loss, ("auto", *known))
        check_float("weight", self.weight, low=0.0, open_low=self.target_active is not None)
        check_float("ramp_share", self.ramp_share, low=0.0, high=1.0)
        check_float("temperature", self.temperature, low=0.0, open_low=True)
        check_float("margin", self.margin, low=0.0)
        check_float("scale", self.scale, low=0.0, open_low=True)
        if self.target_active is not None:
            check_float("target_active", self.target_active, low=0.0, open_low=True)

    def loss_for(self, kind: Kind) -> str:
        """Return the loss for a kind of data, or refuse one that it does not allow."""
        allowed = LOSSES[kind]
        if self.loss == "auto":
            return allowed[0]
        if self.loss not in allowed:
            raise ValueError(
                f"`loss` must be one of {', '.join(map(repr, allowed))} for {kind}; got "
                f"{self.loss!r}. Give labels to `fit`, or queries and documents to `fit_pairs`."
            )
        return self.loss


class FlopsTask(AbstractTask):
    """A sparse projection as the training loop sees it.

    Parameters
    ----------
    module : SparseProjection
    settings : FlopsSettings
    kind : {"rows", "labels", "pairs", "triplets"}
        What a row of data is: an input; an input and the number of its label; the inputs of a query
        and its document; these and that of another document.
    n_inputs : int
        Columns of an input.
    n_classes : int, default=0
        Different labels.
    """

    def __init__(
        self,
        module: SparseProjection,
        settings: FlopsSettings,
        kind: Kind,
        n_inputs: int,
        n_classes: int = 0,
    ) -> None:
        self.loss = settings.loss_for(kind)
        self.n_latents = module.n_components
        self.constants: dict[str, Any] = {}
        self.encoder, self.module = module, nn.ModuleDict({"encoder": module})
        if self.loss == "angular_margin":
            device = module.linear.weight.device
            self._centers = nn.Linear(module.n_components, n_classes, bias=False, device=device)
            self.module.add_module("centers", self._centers)
        self._settings, self._kind, self._n_inputs = settings, kind, n_inputs
        self._factor, self._progress = 1.0, 0.0
        self._steered: Steered | None = None
        if settings.target_active is not None:
            self._steered = Steered(settings.weight, settings.target_active)

    def start(self, sample: Tensor) -> None:
        """Measure the center and the scale of embeddings."""
        self.encoder.adapt(torch.cat(self.sides(sample)))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one group of all parameters."""
        return [{"params": list(self.module.parameters())}]

    def set_progress(self, progress: float) -> None:
        """Follow the ramp of the weight; a steered weight has none."""
        settings, self._progress = self._settings, progress
        self._factor = ramp(progress, share=settings.ramp_share, kind=settings.ramp)

    def scheduled(self) -> dict[str, float]:
        """Return the present weight of the regularizer."""
        return {"weight": self._weight()}

    def losses(self, batch: Tensor, dead_latents: Tensor | None) -> StepLosses:
        """Return what orders scores plus the weighted regularizer, the mean over both sides."""
        inputs = self.sides(batch)
        rows = [self.encoder(side) for side in inputs]
        regularize = losses.flops if self._settings.regularizer == "flops" else losses.l1
        cost = torch.stack([regularize(side) for side in rows]).mean()
        order = self._order(rows, inputs, batch)
        codes = codes_of(torch.cat(rows).detach())
        n_active = len(codes.values) / codes.n_rows
        weight = self._weight()
        if self._steered is not None:
            self._steered.update(n_active, self._progress)
        observed = {"loss/order": order, f"loss/{self._settings.regularizer}": cost}
        return StepLosses(order + weight * cost, observed, codes)

    def evaluate(self) -> dict[str, Any] | None:
        """Return None: rankings are evaluated from outside."""
        return None

    def _weight(self) -> float:
        if self._steered is not None:
            return self._steered.value
        return self._settings.weight * self._factor

    def _order(self, rows: list[Tensor], inputs: list[Tensor], batch: Tensor) -> Tensor:
        """Return the loss that orders scores; rows have length 1, so products are cosines."""
        settings = self._settings
        if self._kind == "labels":
            return self._order_of_labels(rows[0], batch[:, -1].long())
        if self.loss == "distillation":
            return _distillation(rows, [self._dense(side) for side in inputs], settings.temperature)
        if self.loss == "triplet":
            query, positive, negative = rows
            scores = (query * positive).sum(1), (query * negative).sum(1)
            return losses.triplet(*scores, margin=settings.margin)
        return losses.info_nce(rows[0] @ torch.cat(rows[1:]).t() / settings.temperature)

    def _order_of_labels(self, rows: Tensor, labels: Tensor) -> Tensor:
        settings = self._settings
        if self.loss == "triplet":
            return losses.semi_hard_triplet(rows, labels, margin=settings.margin)
        if self.loss == "angular_margin":
            centers = self._centers.weight
            options = {"scale": settings.scale, "margin": settings.margin}
            return losses.angular_margin(rows, centers, labels, **options)
        return losses.contrastive(rows, labels, temperature=settings.temperature)

    @torch.no_grad()
    def _dense(self, inputs: Tensor) -> Tensor:
        return nn.functional.normalize(self.encoder.backbone(inputs), dim=1)

    def sides(self, batch: Tensor) -> list[Tensor]:
        """Return the inputs of a batch: of rows, or of queries, documents and other documents.

        Parameters
        ----------
        batch : Tensor of shape (N, D)
        """
        n_sides = {"pairs": 2, "triplets": 3}.get(self._kind, 1)
        width = self._n_inputs
        return [batch[:, i * width : (i + 1) * width] for i in range(n_sides)]


def _distillation(rows: list[Tensor], dense: list[Tensor], temperature: float) -> Tensor:
    """Return the divergence of neighborhoods in the batch from those of the embeddings."""
    scores, teacher = rows[0] @ rows[-1].t(), dense[0] @ dense[-1].t()
    if len(rows) == 1:  # a row is not its own neighbor
        if len(scores) < 2:
            return scores.sum() * 0.0
        others = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        scores, teacher = (t[others].reshape(len(t), -1) for t in (scores, teacher))
    return losses.kl_divergence(scores / temperature, teacher / temperature)
