"""Certified radii: how far an input may move before the prediction can change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from sparsecode._checks import check_choice, check_finite
from sparsecode.robustness.affine import NotFoldableError
from sparsecode.robustness.layers import Layers, layers_of
from sparsecode.robustness.lipschitz import margin_slopes

# Name of a norm on inputs -> order of the dual norm on gradients.
DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}
EXACT = "exact"
IN_A_BOX = "lower bound: steps that leave the box are counted as attacks"
LIPSCHITZ = "lower bound: Lipschitz constants of the layers"


@dataclass(frozen=True, eq=False)
class Certificate:
    """How far each input may move before the prediction can leave its label.

    Parameters
    ----------
    radius : ndarray of shape (n_samples,)
        In `norm`; 0 where the prediction is not the label already, infinity where it can never
        change.
    norm : {"linf", "l2", "l1"}
    kind : str
        "exact", or "lower bound: ..." with the reason.
    rival : ndarray of shape (n_samples,)
        The label that the smallest change leads to (for lower bounds: that limits the bound),
        its own where none does.
    """

    radius: np.ndarray
    norm: str
    kind: str
    rival: np.ndarray

    @property
    def is_exact(self) -> bool:
        """Whether some step just longer than the radius does change the prediction."""
        return self.kind == EXACT

    def accuracy(self, eps: Any) -> np.ndarray:
        """Return the share of inputs that no step of size `eps`, one or many, can make wrong."""
        eps = np.asarray(eps, dtype=float)
        return (self.radius > eps[..., None]).mean(-1)


def certify(
    model: Any,
    X: Any,
    y: Any,
    norm: str = "linf",
    *,
    box: tuple[float, float] | None = None,
    affine: Sequence[type] = (),
) -> Certificate:
    """Return the certified radius of each input, and what kind of statement it is.

    For linear scores ``s_c(x) = w_c . x + b_c``, whatever affine steps come before the head, the
    radius is ``min over c != y of (s_y - s_c) / ||w_y - w_c||*`` with the dual norm: exact. For
    networks the denominator is replaced by an upper bound of the slope of ``s_y - s_c``, so
    the radius is a lower bound.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
        As in `layers_of`: affine transformers, then a linear classifier, an `MLPClassifier` or a
        stack of torch layers. A list takes scikit-learn transformers before a torch head.
    X : array, sparse matrix or Tensor of shape (n_samples, ...)
    y : array or Tensor of shape (n_samples,)
        Labels; for a Module the indices of its outputs (0 and 1 for a single output).
    norm : {"linf", "l2", "l1"}, default="linf"
        In which steps are measured.
    box : (low, high) or None, default=None
        Says that attackers must keep inputs in this range. The radius does not use it and so
        becomes a lower bound, which `Certificate.kind` says.
    affine : sequence of classes, default=()
        Further transformer classes that are affine; see `affine_map`.

    Returns
    -------
    Certificate

    Raises
    ------
    NotFoldableError
        If a part of the model is neither known to be affine nor a layer with a known slope.

    References
    ----------
    Hein & Andriushchenko (2017), "Formal guarantees on the robustness of a classifier against
    adversarial manipulation", theorem 2.1. Steunou, Druilhe & Saue (2025), arXiv:2509.21130,
    section 3.

    Examples
    --------
    >>> import torch
    >>> head = torch.nn.Linear(2, 1)
    >>> _ = head.weight.data.copy_(torch.tensor([[3.0, 4.0]])), head.bias.data.zero_()
    >>> certificate = certify(head, [[1.0, 1.0], [0.0, 1.0]], [1, 0], "l2")
    >>> certificate.radius.round(3).tolist(), certificate.kind
    ([1.4, 0.0], 'exact')
    """
    check_choice("norm", norm, list(DUAL))
    check_box(box)
    X_ND, layers = read_rows(model, X, affine)
    labels = layers.label_indices(y)
    if len(labels) != len(X_ND):
        raise ValueError(
            f"`y` must have one label for each of {len(X_ND)} rows; got {len(labels)}."
        )
    margins = _margins(layers, X_ND, labels)
    # Where no step changes a margin, it lasts forever, but for ties (0 / 0).
    ratios = (margins / _slopes(layers, DUAL[norm])[labels]).where(margins != 0, 0.0)
    ratios[torch.arange(len(labels)), labels] = torch.inf
    radius, rival = ratios.min(1)
    rival = rival.where(radius.isfinite() | (radius < 0), labels)
    kind = LIPSCHITZ if not layers.is_linear else EXACT if box is None else IN_A_BOX
    return Certificate(radius.clamp(min=0).numpy(), norm, kind, layers.classes[rival.numpy()])


def certified_radius(
    model: Any,
    X: Any,
    y: Any,
    norm: str = "linf",
    *,
    box: tuple[float, float] | None = None,
    affine: Sequence[type] = (),
) -> np.ndarray:
    """Return how far each input may move before the prediction can leave its label.

    Exact for linear heads on affine front ends: a step of 0.999 times the radius never changes the
    prediction, one of 1.001 times, in the direction of `worst_case_step`, does. For networks and
    for inputs that attackers must keep in a box, a lower bound; `certify` returns which of these it
    is.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
        As in `certify`.
    X : array, sparse matrix or Tensor of shape (n_samples, ...)
    y : array or Tensor of shape (n_samples,)
    norm : {"linf", "l2", "l1"}, default="linf"
    box : (low, high) or None, default=None
        As in `certify`.
    affine : sequence of classes, default=()
        As in `certify`.

    Returns
    -------
    ndarray of shape (n_samples,)
        0 where the prediction is not the label already.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = [[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]], [0, 0, 1, 1]
    >>> model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    >>> certified_radius(model, X, y, norm="l2").round(3).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    return certify(model, X, y, norm, box=box, affine=affine).radius


def certified_accuracy(
    model: Any, X: Any, y: Any, eps: Any, norm: str = "linf", *, affine: Sequence[type] = ()
) -> np.ndarray:
    """Return, for each step size, the share of inputs that no step of that size can make wrong.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
        As in `certify`.
    X : array, sparse matrix or Tensor of shape (n_samples, ...)
    y : array or Tensor of shape (n_samples,)
    eps : float or array
        Step sizes.
    norm : {"linf", "l2", "l1"}, default="linf"
    affine : sequence of classes, default=()
        As in `certify`.

    Returns
    -------
    ndarray of the shape of `eps`
    """
    return certify(model, X, y, norm, affine=affine).accuracy(eps)


def worst_case_step(
    model: Any, X: Any, y: Any, norm: str = "linf", *, affine: Sequence[type] = ()
) -> np.ndarray:
    """Return the shortest step from each input to the boundary of its label; linear heads only.

    ``-r sign(v)`` for l_inf, ``-r v / ||v||`` for l_2 and ``-r sign(v_i) e_i`` at the largest entry
    for l_1, with ``v = w_y - w_c`` for the label c that is closest. Steps longer by any factor
    above 1 change the prediction.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
        As in `certify`.
    X : array, sparse matrix or Tensor of shape (n_samples, ...)
    y : array or Tensor of shape (n_samples,)
    norm : {"linf", "l2", "l1"}, default="linf"
    affine : sequence of classes, default=()
        As in `certify`.

    Returns
    -------
    ndarray of the shape of `X`, float64
        Zero where the prediction is not the label already, or can never change.

    Raises
    ------
    NotFoldableError
        If the scores are not linear.
    """
    certificate = certify(model, X, y, norm, affine=affine)
    if not certificate.is_exact:
        raise NotFoldableError(
            "The scores must be linear for a worst case in closed form; they are not."
        )
    _, layers = read_rows(model, X, affine)
    weight = layers.weights[0]
    v = weight[layers.label_indices(y)] - weight[layers.label_indices(certificate.rival)]
    if norm == "linf":
        direction = v.sign()
    elif norm == "l2":
        direction = v / v.norm(dim=1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    else:
        largest = v.abs().argmax(1, keepdim=True)
        direction = torch.zeros_like(v).scatter(1, largest, v.gather(1, largest).sign())
    radius = torch.from_numpy(certificate.radius)[:, None]
    return torch.where(radius.isfinite(), -radius * direction, 0.0).reshape(np.shape(X)).numpy()


def read_rows(model: Any, X: Any, affine: Sequence[type]) -> tuple[Tensor, Layers]:
    """Return the inputs as rows of finite float64 numbers, and the model as layers."""
    shape, rows = flat_rows(X)
    return rows, layers_of(model, shape, affine=affine)


def flat_rows(X: Any) -> tuple[tuple[int, ...], Tensor]:
    """Return the shape of an input, and all of them as rows of finite float64 numbers."""
    if isinstance(X, Tensor):
        X = X.detach().cpu().double()
    else:
        dense = X.toarray() if scipy.sparse.issparse(X) else X
        X = torch.tensor(np.asarray(dense, dtype=np.float64))
    if X.ndim < 2 or 0 in X.shape:
        raise ValueError(
            f"`X` must have shape (n_samples, ...) without empty axes; got {tuple(X.shape)}."
        )
    return tuple(X.shape[1:]), check_finite("X", X.flatten(1))


def check_box(box: tuple[float, float] | None) -> None:
    """Raise ValueError unless the box is None or a range."""
    if box is not None and (np.shape(box) != (2,) or not box[0] < box[1]):
        raise ValueError(f"`box` must be (low, high) with low < high, or None; got {box!r}.")


@torch.no_grad()
def _margins(layers: Layers, X: Tensor, labels: Tensor) -> Tensor:
    scores = layers.scores(X)
    return scores.gather(1, labels[:, None]) - scores


def _slopes(layers: Layers, order: float) -> Tensor:
    """Return the largest slope of ``s_y - s_c`` for all y and c, (C, C)."""
    if not layers.is_linear:
        return margin_slopes(layers, order)
    weight = layers.weights[0]
    return torch.stack([(row - weight).norm(order, dim=1) for row in weight])
