"""In how many directions an attack exists: robustness beyond the worst case."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsecode._checks import check_choice, check_float, check_int
from sparsecode.robustness.certificates import read_rows
from sparsecode.robustness.layers import Layers

BISECTIONS, ASCENT_STEPS = 8, 20


@dataclass(frozen=True, eq=False)
class AdversarialSparsity:
    """How much of its freedom an attacker needs, for random directions that it must keep close to.

    Parameters
    ----------
    freedom : ndarray of shape (n_samples, n_directions)
        The smallest freedom, from 0 (the direction itself) to 1 (any step), with which an attack
        exists; infinity where there is none at all, 0 for inputs that are wrong already. In l_2 the
        angle to the direction, as a share of pi; in l_inf the share of coordinates that may leave
        the random corner.
    eps : float
        Size of the step.
    norm : {"linf", "l2"}
    """

    freedom: np.ndarray
    eps: float
    norm: str

    def share(self, freedom: float = 0.0) -> float:
        """Return the share of directions in which an attack exists, given that freedom."""
        return float((self.freedom <= freedom).mean())

    @property
    def mean(self) -> float:
        """Mean freedom that an attacker needs, 1 where there is no attack. Higher is better."""
        return float(np.minimum(self.freedom, 1.0).mean())


def adversarial_sparsity(
    model: Any,
    X: Any,
    y: Any,
    eps: float,
    norm: str = "l2",
    *,
    n_directions: int = 32,
    affine: Sequence[type] = (),
    seed: int = 0,
) -> AdversarialSparsity:
    """Measure in how many directions an attack of size `eps` exists.

    For each input and random direction, the smallest neighborhood of that direction, on the sphere
    of radius `eps`, that holds an adversarial example: a cone around a uniform direction in l_2, a
    face of the cube around a random corner in l_inf (a random order says which coordinates become
    free first). For linear heads it is computed exactly; for networks by projected gradient ascent
    of the margin inside the neighborhood and bisection, so it can be too large.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
        As in `certify`.
    X : array or Tensor of shape (n_samples, ...)
    y : array or Tensor of shape (n_samples,)
    eps : float > 0
    norm : {"l2", "linf"}, default="l2"
    n_directions : int, default=32
    affine : sequence of classes, default=()
        As in `affine_map`.
    seed : int, default=0
        Of the directions.

    Returns
    -------
    AdversarialSparsity

    References
    ----------
    Olivier & Raj (2023), "How many perturbations break this model? Evaluating robustness beyond
    adversarial accuracy". arXiv:2207.04129. Steps have the full length `eps` here.

    Examples
    --------
    >>> head = torch.nn.Linear(2, 2)
    >>> _ = head.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), head.bias.data.zero_()
    >>> found = adversarial_sparsity(head, [[1.0, 0.0]], [0], eps=2.0, n_directions=2000)

    A step of length 2 crosses the boundary at distance 1 if it is within 60 degrees of the normal.

    >>> round(found.share(), 1)
    0.3
    """
    check_choice("norm", norm, ("l2", "linf"))
    eps = check_float("eps", eps, low=0.0, open_low=True)
    n_directions = check_int("n_directions", n_directions, low=1)
    X_ND, layers = read_rows(model, X, affine)
    labels = layers.label_indices(y)
    generator = torch.Generator().manual_seed(seed)
    freedom = torch.empty(len(X_ND), n_directions, dtype=torch.float64)
    search = _Cones if norm == "l2" else _Corners
    for j in range(n_directions):
        family = search(X_ND.shape, eps, generator)
        found = (
            family.exact(layers, X_ND, labels)
            if layers.is_linear
            else _bisected(family, layers, X_ND, labels)
        )
        freedom[:, j] = found
    freedom[layers.scores(X_ND).argmax(1) != labels] = 0.0
    return AdversarialSparsity(freedom.numpy(), eps, norm)


class _Cones:
    """Steps of length eps within an angle of one random direction a row."""

    def __init__(self, shape: Sequence[int], eps: float, generator: torch.Generator) -> None:
        direction = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
        self.direction, self.eps = direction / direction.norm(dim=1, keepdim=True), eps

    def exact(self, layers: Layers, X: Tensor, labels: Tensor) -> Tensor:
        """Angle to the steepest descent, less the angle at which that uses up the margin."""
        margins, v = _linear_margins(layers, X, labels)
        reach = margins / (self.eps * v.norm(dim=2))
        along = -(v * self.direction[:, None]).sum(2) / v.norm(dim=2)
        angle = along.clamp(-1, 1).arccos() - reach.clamp(-1, 1).arccos()
        return torch.where(reach > 1, torch.inf, angle.clamp(min=0) / math.pi).amin(1)

    def start(self) -> Tensor:
        return self.eps * self.direction

    def moved(self, steps: Tensor, gradient: Tensor) -> Tensor:
        norm = gradient.norm(dim=1, keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
        return steps + 0.25 * self.eps * gradient / norm

    def inside(self, steps: Tensor, freedom: Tensor) -> Tensor:
        """Turn steps towards the direction until they are in the cone, at full length."""
        unit = steps / steps.norm(dim=1, keepdim=True).clamp(min=torch.finfo(steps.dtype).tiny)
        along = (unit * self.direction).sum(1, keepdim=True)
        across = unit - along * self.direction
        across = across / across.norm(dim=1, keepdim=True).clamp(min=torch.finfo(steps.dtype).tiny)
        angle = torch.minimum(along.clamp(-1, 1).arccos(), math.pi * freedom[:, None])
        return self.eps * (angle.cos() * self.direction + angle.sin() * across)


class _Corners:
    """Steps to one random corner of the cube a row, of which some coordinates are free."""

    def __init__(self, shape: Sequence[int], eps: float, generator: torch.Generator) -> None:
        draw = torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
        self.corner, self.eps = torch.where(draw < 0.5, -eps, eps).double(), eps
        self.order = torch.rand(tuple(shape), generator=generator).argsort(1)
        places = torch.arange(1, shape[1] + 1, dtype=torch.float64) / shape[1]
        # Share of coordinates that must be free for each coordinate to be free.
        self.turn = torch.empty_like(draw).scatter(1, self.order, places.expand_as(draw))

    def exact(self, layers: Layers, X: Tensor, labels: Tensor) -> Tensor:
        """Free coordinates in their order until the best corner uses up a margin."""
        margins, v = _linear_margins(layers, X, labels)
        order = self.order[:, None].expand_as(v)
        fixed = (-v * self.corner[:, None]).gather(2, order)
        gain = (self.eps * v.abs()).gather(2, order) - fixed
        reached = fixed.sum(2, keepdim=True) + torch.nn.functional.pad(gain.cumsum(2), (1, 0))
        n_free = (reached < margins[..., None]).sum(2)
        return torch.where(n_free > X.shape[1], torch.inf, n_free / X.shape[1]).amin(1)

    def start(self) -> Tensor:
        return self.corner.clone()

    def moved(self, steps: Tensor, gradient: Tensor) -> Tensor:
        return steps + 0.5 * self.eps * gradient.sign()

    def inside(self, steps: Tensor, freedom: Tensor) -> Tensor:
        free = self.turn <= freedom[:, None] + 1e-12
        return steps.clamp(-self.eps, self.eps).where(free, self.corner)


def _linear_margins(layers: Layers, X: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return margins (N, C) and their gradients (N, C, D); infinite for the label itself."""
    scores, weight = layers.scores(X), layers.weights[0]
    margins = scores.gather(1, labels[:, None]) - scores
    margins[torch.arange(len(X)), labels] = torch.inf
    gradients = weight[labels][:, None] - weight
    # A margin without a gradient can never be used up; any nonzero length says so.
    gradients[torch.arange(len(X)), labels] = 1.0
    return margins, gradients


def _bisected(family: _Cones | _Corners, layers: Layers, X: Tensor, labels: Tensor) -> Tensor:
    """Return the smallest freedom with which gradient ascent finds an attack."""
    low, high = torch.zeros(len(X), dtype=X.dtype), torch.ones(len(X), dtype=X.dtype)
    at_once = _succeeds(family, layers, X, labels, low)
    at_all = _succeeds(family, layers, X, labels, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = _succeeds(family, layers, X, labels, middle)
        low, high = low.where(found, middle), middle.where(found, high)
    return torch.where(at_once, 0.0, torch.where(at_all, high, torch.inf))


def _succeeds(
    family: _Cones | _Corners, layers: Layers, X: Tensor, labels: Tensor, freedom: Tensor
) -> Tensor:
    """Return for which rows ascent of the margin inside the neighborhood ends in another label."""
    steps = family.inside(family.start(), freedom)
    broken = torch.zeros(len(X), dtype=torch.bool)
    for _ in range(ASCENT_STEPS):
        steps.requires_grad_(True)
        scores = layers.scores(X + steps)
        own = scores.gather(1, labels[:, None])[:, 0]
        others = scores.scatter(1, labels[:, None], -torch.inf).amax(1)
        broken |= (others > own).detach()
        (gradient,) = torch.autograd.grad((others - own).sum(), steps)
        with torch.no_grad():
            steps = family.inside(family.moved(steps.detach(), gradient), freedom)
    return broken
