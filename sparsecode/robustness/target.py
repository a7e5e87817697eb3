"""A classifier as an attacker sees it: differentiable scores, and the predictions that count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsecode.robustness.affine import NotFoldableError, with_names
from sparsecode.robustness.layers import layers_of

EXACT_GRADIENTS = "exact"
FINITE_DIFFERENCES = "finite differences"
ROWS_AT_ONCE = 1 << 16
Scores = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Target:
    """What attacks need of a classifier.

    Parameters
    ----------
    module : Module
        From rows of shape (N, D) in float32 to scores of shape (N, n_classes).
    gradients : {"exact", "finite differences"}
        How the module is differentiated.
    predict : function of ndarray of shape (N, D), returning ndarray of shape (N,)
        Labels, by the classifier itself.
    classes : ndarray of shape (n_classes,)
    """

    module: nn.Module
    gradients: str
    predict: Callable[[np.ndarray], np.ndarray]
    classes: np.ndarray

    def indices(self, y: Any) -> np.ndarray:
        """Return the position of each label of `y` among the classes."""
        found = np.asarray(y)[:, None] == self.classes
        if not found.any(1).all():
            unknown = sorted({str(label) for label in np.asarray(y)[~found.any(1)]})
            raise ValueError(
                f"`y` must hold labels that the model knows, {self.classes.tolist()}; "
                f"got {unknown}."
            )
        return found.argmax(1)


def target_of(
    model: Any, shape: Sequence[int], *, affine: Sequence[type] = (), step: float = 1e-2
) -> Target:
    """Return the attacker's view of any classifier.

    Models that `layers_of` can write as layers, and torch modules, are differentiated exactly. Of
    any other scikit-learn classifier, such as one on sparse codes that an optimization finds, the
    scores are differentiated by central differences: two evaluations a feature and row.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
    shape : sequence of int
        Of one input row.
    affine : sequence of classes, default=()
        As in `affine_map`.
    step : float, default=1e-2
        Of the central differences, in units of the input.

    Returns
    -------
    Target
    """
    shape = tuple(shape)
    try:
        layers = layers_of(model, shape, affine=affine)
    except NotFoldableError:
        return _unfolded(model, shape, step)
    if isinstance(model, (nn.Module, list, tuple)):

        def predict(X: np.ndarray) -> np.ndarray:
            return layers.classes[layers.scores(torch.from_numpy(X).double()).argmax(1).numpy()]

    else:

        def predict(X: np.ndarray) -> np.ndarray:
            return model.predict(with_names(model, X.reshape(-1, *shape)))

    return Target(layers.module(), EXACT_GRADIENTS, predict, layers.classes)


def _unfolded(model: Any, shape: tuple[int, ...], step: float) -> Target:
    if isinstance(model, nn.Module):
        wrapped = _TwoScores(model, shape)
        with torch.no_grad():
            n_classes = wrapped(torch.zeros(1, int(np.prod(shape)))).shape[1]

        def predict(X: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return wrapped(torch.from_numpy(X).float()).argmax(1).numpy()

        return Target(wrapped, EXACT_GRADIENTS, predict, np.arange(n_classes))
    if isinstance(model, (list, tuple)):
        raise NotFoldableError(
            "A list of parts must be foldable into layers; it is not. Pass a scikit-learn pipeline "
            "or one torch Module for attacks."
        )
    scores = _score_function(model, shape)

    def predict_labels(X: np.ndarray) -> np.ndarray:
        return model.predict(with_names(model, X.reshape(-1, *shape)))

    return Target(
        _CentralDifferences(scores, step), FINITE_DIFFERENCES, predict_labels, model.classes_
    )


def _score_function(model: Any, shape: tuple[int, ...]) -> Scores:
    """Return rows -> scores, one column a class, of a scikit-learn classifier."""
    has_decision = callable(getattr(model, "decision_function", None))
    if not has_decision and not callable(getattr(model, "predict_proba", None)):
        raise NotImplementedError(
            "`model` must have decision_function or predict_proba to be attacked; "
            f"{type(model).__name__} has neither."
        )

    def scores(X: np.ndarray) -> np.ndarray:
        X = with_names(model, X.reshape(-1, *shape))
        if not has_decision:
            return np.log(np.maximum(model.predict_proba(X), np.finfo(np.float64).tiny))
        decision = model.decision_function(X)
        return np.stack([np.zeros_like(decision), decision], 1) if decision.ndim == 1 else decision

    return scores


class _TwoScores(nn.Module):
    """A module on flat rows with at least two scores: a single one, s, becomes 0 and s."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module, self.shape = module, shape

    def forward(self, x: Tensor) -> Tensor:
        out = self.module(x.reshape(-1, *self.shape)).flatten(1)
        return torch.cat([torch.zeros_like(out), out], 1) if out.shape[1] == 1 else out


class _CentralDifferences(nn.Module):
    """Scores of a numpy function, differentiable by central differences."""

    def __init__(self, scores: Scores, step: float) -> None:
        super().__init__()
        self.scores, self.step = scores, step

    def forward(self, x: Tensor) -> Tensor:
        return _NumpyScores.apply(x, self.scores, self.step)


class _NumpyScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scores: Scores, step: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scores, ctx.step = scores, step
        return torch.from_numpy(scores(x.double().numpy())).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        width = x.shape[1]
        moves = ctx.step * np.concatenate([np.eye(width), -np.eye(width)])
        out = torch.empty_like(x)
        for rows in torch.arange(len(x)).split(max(1, ROWS_AT_ONCE // (2 * width))):
            moved = x[rows].double().numpy()[:, None] + moves
            scores = ctx.scores(moved.reshape(-1, width)).reshape(len(rows), 2, width, -1)
            slopes = (scores[:, 0] - scores[:, 1]) / (2 * ctx.step)
            out[rows] = torch.einsum(
                "ndc,nc->nd", torch.from_numpy(slopes).to(x.dtype), gradients[0][rows]
            )
        return out, None, None
