"""The loss of a contrastive sparse encoder on a batch of rows, of labelled rows or of pairs."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from retrieval.encoders.tied_topk import SHARE_OF_WIDER, WIDER, TiedTopK
from retrieval.losses import contrastive, paired_contrastive
from sparsecode._checks import check_float, check_int
from sparsecode.codes import SparseCodes
from sparsecode.training import AbstractTask, StepLosses

Kind = Literal["rows", "labels", "pairs"]


@dataclass(frozen=True, kw_only=True)
class ContrastiveSettings:
    """Numbers of the loss and of the schedule of k, checked when they are made."""

    k: int
    """Entries of a code at the end of the training."""

    k_start: int | None
    """Entries at its start; None keeps `k` throughout."""

    k_anneal_share: float
    """Share of the steps over which k falls."""

    k_aux: int
    """Dead latents that may explain the error of a row."""

    beta: float
    """Weight of ``L_aux``."""

    gamma: float
    """Weight of ``L_cl``."""

    temperature: float
    """What cosines are divided by."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_int("k", self.k, low=1)
        check_int("k_aux", self.k_aux, low=1)
        if self.k_start is not None:
            check_int("k_start", self.k_start, low=1)
        check_float("k_anneal_share", self.k_anneal_share, low=0.0, high=1.0)
        check_float("beta", self.beta, low=0.0)
        check_float("gamma", self.gamma, low=0.0)
        check_float("temperature", self.temperature, low=0.0, open_low=True)

    def k_at(self, progress: float, n_latents: int) -> int:
        """Return the entries of a code at a share of the training.

        ``round((1 - p) k_start + p k)`` with p rising from 0 to 1 over `k_anneal_share`; `k_start`
        counts as at most a quarter of the latents, since ``L_4k`` needs four times as many.

        References
        ----------
        Guo et al. (2026), "CSRv2: Unlocking Ultra-Sparse Embeddings".
        arXiv:2602.05735.
        """
        if self.k_start is None or progress >= self.k_anneal_share:
            return self.k
        start = max(self.k, min(self.k_start, n_latents // WIDER))
        return round(start + (self.k - start) * progress / self.k_anneal_share)


class ContrastiveTask(AbstractTask):
    """A tied TopK autoencoder as the training loop sees it.

    The loss is ``(L_k + L_4k / 8) / variance + beta L_aux + gamma L_cl``: the first two are divided
    by the variance of the embeddings, so that `gamma` means the same for any of them.

    Parameters
    ----------
    module : TiedTopK
    settings : ContrastiveSettings
    kind : {"rows", "labels", "pairs"}
        What a row of data is: an embedding, an embedding and the number of its label, or the
        embeddings of a query and of its document.
    """

    def __init__(self, module: TiedTopK, settings: ContrastiveSettings, kind: Kind) -> None:
        self.module, self.autoencoder, self.n_latents = module, module, module.n_latents
        self.constants: dict[str, Any] = {}
        self._settings, self._kind, self._k = settings, kind, settings.k

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        """Put the bias at the mean of the embeddings, and measure their variance."""
        x = torch.cat(self._sides(sample))
        centered = x.double() - x.double().mean(0)
        variance = float(centered.square().sum(1).mean())
        variance = variance if variance > 0 else float(x.shape[1])  # any scale will do
        self.constants = {"variance": variance}
        self.autoencoder.b_pre.copy_(x.mean(0))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups; biases live on the scale of the embeddings."""
        module = self.autoencoder
        scale = (self.constants["variance"] / module.n_features) ** 0.5
        return [
            {"params": [module.W], "latent_dim": 0},
            {"params": [module.b_latent, module.b_pre], "lr_scale": scale},
        ]

    def set_progress(self, progress: float) -> None:
        """Follow the schedule of k."""
        self._k = self._settings.k_at(progress, self.n_latents)

    def scheduled(self) -> dict[str, float]:
        """Return the present k."""
        return {"k": self._k}

    def losses(self, batch: Tensor, dead_latents: Tensor | None) -> StepLosses:
        """Return the loss of a batch, the reconstruction as the mean over both sides of pairs."""
        settings = self._settings
        dead = dead_latents if settings.beta else None
        found = [
            self.autoencoder.reconstruction_terms(
                x, self._k, dead_latents=dead, k_aux=settings.k_aux
            )
            for x in self._sides(batch)
        ]
        share = 1.0 / (len(found) * self.constants["variance"])
        terms = {
            "k": sum(part.k for part in found) * share,
            "4k": sum(part.wider for part in found) * (share * SHARE_OF_WIDER),
            "aux": sum(part.aux for part in found) * (settings.beta / len(found)),
        }
        codes = [part.codes for part in found]
        if settings.gamma:
            terms["contrastive"] = settings.gamma * self._contrastive(codes, batch)
        observed = {f"loss/{name}": term for name, term in terms.items()} | {"fvu": terms["k"]}
        return StepLosses(
            torch.stack(list(terms.values())).sum(), observed, SparseCodes.cat(codes).detach()
        )

    def evaluate(self) -> dict[str, Any] | None:
        """Return None: rankings are evaluated from outside."""
        return None

    def _contrastive(self, codes: list[SparseCodes], batch: Tensor) -> Tensor:
        temperature = self._settings.temperature
        if self._kind == "pairs":
            return paired_contrastive(*codes, temperature=temperature)
        labels = batch[:, -1] if self._kind == "labels" else None
        return contrastive(codes[0], labels, temperature=temperature)

    def _sides(self, batch: Tensor) -> list[Tensor]:
        """Return the embeddings of a batch: one matrix, or those of queries and documents."""
        width = self.autoencoder.n_features
        if self._kind == "pairs":
            return [batch[:, :width], batch[:, width:]]
        return [batch[:, :width]]
