"""Attribution: which latents an output is due to, and what becomes of it without them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sae.autoencoders import AbstractAutoencoder
from sae.cache.hooks import model_inputs
from sae.evaluation.reconstruction import evaluation_mode
from sae.evaluation.splice import splice
from sae.interpret.steering import ablate
from sparsecode import SparseCodes
from sparsecode._checks import check_choice, check_int

Metric = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Attribution:
    """What `attribute` returns.

    Parameters
    ----------
    codes : SparseCodes of shape (batch, tokens, F)
        The codes as they were.
    effects : SparseCodes of shape (batch, tokens, F)
        What each active latent on each token contributes to the metric; same support.
    """

    codes: SparseCodes
    effects: SparseCodes

    def by_latent(self) -> Tensor:
        """Return the sum over tokens, float64 of shape (F,)."""
        total = torch.zeros(self.effects.width, dtype=torch.float64, device=self.effects.device)
        values = self.effects.values.reshape(-1).double()
        return total.index_add_(0, self.effects.indices.reshape(-1), values)


def attribute(
    lm: nn.Module,
    tokens: Tensor,
    hookpoint: str,
    model: AbstractAutoencoder,
    metric: Metric,
    *,
    method: Literal["gradient", "integrated"] = "gradient",
    steps: int = 16,
    attention_mask: Tensor | None = None,
) -> Attribution:
    """Estimate what each active latent contributes to an output.

    ``"gradient"`` is gradient x activation, ``a_i dm/da_i``, one forward and one backward pass: the
    first-order effect of taking the latent out. ``"integrated"`` averages the gradient along the
    straight path from no codes to all (the error of the reconstruction is there all along), so
    that effects add up to the metric with the codes less the metric without. The exact effect of
    single latents is what `ablation_effects` measures.

    Parameters
    ----------
    lm : Module
        A transformers model.
    tokens : Tensor of shape (batch, tokens), int64
    hookpoint : str
    model : AbstractAutoencoder
    metric : callable
        Takes what `lm` returns and gives a tensor that is summed up, such as
        ``lambda out: out.logits[:, -1, 42]``.
    method : {"gradient", "integrated"}, default="gradient"
    steps : int, default=16
        Points on the path, for "integrated"; midpoints of equal pieces.
    attention_mask : Tensor of shape (batch, tokens) or None, default=None

    Returns
    -------
    Attribution

    References
    ----------
    Sundararajan, Taly & Yan (2017), "Axiomatic Attribution for Deep Networks", eq. (3).
    arXiv:1703.01365. Marks et al. (2024), "Sparse Feature Circuits", eq. (3) and (4).
    arXiv:2403.19647. Differs from the latter in: the baseline is no codes, not other tokens'.
    """
    check_choice("method", method, ("gradient", "integrated"))
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "`attribute` needs gradients, which torch.inference_mode() rules out; it was called "
            "inside of it. Leave that block, or use torch.no_grad()."
        )
    steps = check_int("steps", steps, low=1) if method == "integrated" else 1
    mask = torch.ones_like(tokens) if attention_mask is None else attention_mask
    # At 1 the gradient is taken where the model is; midpoints make the integral second-order.
    points = [1.0] if method == "gradient" else [(i + 0.5) / steps for i in range(steps)]
    mean: Tensor | None = None
    found: SparseCodes | None = None
    for point in points:
        leaf: list[Tensor] = []

        def at_point(codes: SparseCodes, point: float = point, leaf: list[Tensor] = leaf) -> Any:
            leaf.append((point * codes.values.detach()).requires_grad_())
            return codes.with_values(leaf[0])

        with torch.enable_grad(), evaluation_mode(lm):
            with splice(lm, hookpoint, model, error=True, change=at_point) as spliced:
                value = _value(metric, lm(**model_inputs(lm, tokens, mask)))
            (slope,) = torch.autograd.grad(value, leaf, materialize_grads=True)
        mean = slope / len(points) if mean is None else mean + slope / len(points)
        found = spliced.codes
    assert found is not None
    assert mean is not None
    return Attribution(found, found.with_values(found.values * mean))


@torch.no_grad()
def ablation_effects(
    lm: nn.Module,
    tokens: Tensor,
    hookpoint: str,
    model: AbstractAutoencoder,
    metric: Metric,
    latents: Sequence[int],
    *,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Measure how much of an output is lost without each of some latents, one at a time.

    Exact, one forward pass for each latent: the metric as it is, less the metric when the latent is
    taken out on all tokens.

    Parameters
    ----------
    lm : Module
    tokens : Tensor of shape (batch, tokens), int64
    hookpoint : str
    model : AbstractAutoencoder
    metric : callable
        As for `attribute`.
    latents : sequence of int
    attention_mask : Tensor of shape (batch, tokens) or None, default=None

    Returns
    -------
    Tensor of shape (L,), float64
    """
    mask = torch.ones_like(tokens) if attention_mask is None else attention_mask
    inputs = model_inputs(lm, tokens, mask)
    with evaluation_mode(lm):
        whole = float(_value(metric, lm(**inputs)))
        effects = []
        for latent in latents:
            with ablate(lm, hookpoint, model, int(latent)):
                effects.append(whole - float(_value(metric, lm(**inputs))))
    return torch.tensor(effects, dtype=torch.float64)


def _value(metric: Metric, output: Any) -> Tensor:
    value = metric(output)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(
            f"`metric` must return a floating tensor; got {type(value).__name__}. "
            "Return for example out.logits[:, -1, token]."
        )
    return value.sum()
