"""Any fitted classifier whose scores are a stack of affine maps and activations, in one form."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    RidgeClassifier,
    RidgeClassifierCV,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from sparsecode.robustness.affine import PROBE, NotFoldableError, affine_map

LINEAR_HEADS = frozenset(
    {
        LinearDiscriminantAnalysis,
        LinearSVC,
        LogisticRegression,
        LogisticRegressionCV,
        Perceptron,
        RidgeClassifier,
        RidgeClassifierCV,
        SGDClassifier,
    }
)
MLP_ACTIVATIONS = {
    "identity": nn.Identity,
    "logistic": nn.Sigmoid,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
}
AFFINE_MODULES = frozenset(
    {
        nn.AvgPool2d,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.Conv1d,
        nn.Conv2d,
        nn.Dropout,
        nn.Flatten,
        nn.Identity,
        nn.Linear,
        nn.Unflatten,
    }
)
SLOPES = {
    nn.ELU: lambda module: max(1.0, abs(module.alpha)),
    nn.GELU: lambda module: 1.13,
    nn.Hardtanh: lambda module: 1.0,
    nn.LeakyReLU: lambda module: max(1.0, abs(module.negative_slope)),
    nn.ReLU: lambda module: 1.0,
    nn.SiLU: lambda module: 1.1,
    nn.Sigmoid: lambda module: 0.25,
    nn.Softplus: lambda module: 1.0,
    nn.Tanh: lambda module: 1.0,
}
LAST = frozenset({nn.LogSoftmax, nn.Sigmoid, nn.Softmax})
Part = tuple[Tensor, Tensor] | nn.Module


class HasPipeline(ABC):
    """A fitted classifier that is a scikit-learn pipeline inside."""

    @property
    @abstractmethod
    def pipeline_(self) -> Pipeline:
        """The fitted front end and head."""


@dataclass(frozen=True, eq=False)
class Layers:
    """``scores = W_L a(... a(W_1 x + b_1) ...) + b_L``, the front end folded into the first layer.

    Parameters
    ----------
    weights : tuple of Tensor, float64
        One matrix of shape (outputs, inputs) a layer; no two layers without an activation between
        them.
    biases : tuple of Tensor, float64
    activations : tuple of Module
        One fewer than layers.
    classes : ndarray of shape (n_classes,)
        The label that each score stands for; the largest score wins.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activations: tuple[nn.Module, ...]
    classes: np.ndarray

    @property
    def is_linear(self) -> bool:
        """Whether the scores are an affine function of the input."""
        return not self.activations

    def scores(self, X: Tensor) -> Tensor:
        """Return the scores of rows X of shape (N, D), of shape (N, n_classes)."""
        X = X @ self.weights[0].T + self.biases[0]
        for activation, weight, bias in zip(
            self.activations, self.weights[1:], self.biases[1:], strict=True
        ):
            X = activation(X) @ weight.T + bias
        return X

    def module(self, dtype: torch.dtype = torch.float32) -> nn.Sequential:
        """Return the same function as a torch module in `dtype`, for attacks and export."""
        parts: list[nn.Module] = []
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            # On "meta" no weights are drawn, which would move the global random state.
            linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta", dtype=dtype)
            linear = linear.to_empty(device="cpu")
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            parts += [linear, *self.activations[i : i + 1]]
        return nn.Sequential(*parts).requires_grad_(False).eval()

    def label_indices(self, y: Any) -> Tensor:
        """Return the position of each label of `y` among the classes."""
        y = np.asarray(y.cpu() if isinstance(y, Tensor) else y)
        if y.ndim != 1:
            raise ValueError(f"`y` must have shape (n_samples,); got {y.shape}.")
        order = np.argsort(self.classes)
        places = np.searchsorted(self.classes, y, sorter=order).clip(max=len(order) - 1)
        found = order[places]
        if not np.array_equal(self.classes[found], y):
            unknown = sorted({str(label) for label in y[self.classes[found] != y]})
            raise ValueError(
                f"`y` must hold labels that the model knows, {self.classes.tolist()}; "
                f"got {unknown}."
            )
        return torch.from_numpy(found)


def layers_of(model: Any, shape: Sequence[int], *, affine: Sequence[type] = ()) -> Layers:
    """Write a fitted model as layers.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
        Transformers as in `affine_map`, then a linear classifier, an `MLPClassifier` or a stack of
        torch layers; a list takes scikit-learn transformers before a torch head. Modules are taken
        in evaluation mode; a last softmax does not change which score is largest and is left out.
    shape : sequence of int
        Of one input row, such as ``X.shape[1:]``; layers see it flattened.
    affine : sequence of classes, default=()
        Further transformer classes that are affine; see `affine_map`.

    Returns
    -------
    Layers
        One score, as binary classifiers have it, becomes the two scores 0 and s.

    Raises
    ------
    NotFoldableError
        If a part is neither known to be affine nor an activation with a known largest slope.
    """
    parts, classes = _parts(model, tuple(shape), tuple(affine))
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    activations: list[nn.Module] = []
    for part in parts:
        if isinstance(part, nn.Module):
            if len(weights) == len(activations):
                width = math.prod(shape) if not biases else len(biases[-1])
                weights.append(torch.eye(width, dtype=torch.float64))
                biases.append(torch.zeros(width, dtype=torch.float64))
            activations.append(part)
        elif len(weights) > len(activations):
            weights[-1], biases[-1] = part[0] @ weights[-1], part[0] @ biases[-1] + part[1]
        else:
            weights.append(part[0])
            biases.append(part[1])
    if len(activations) == len(weights):
        raise NotFoldableError(
            "A model must end with an affine layer, or with a softmax after one; it does not."
        )
    if weights[-1].shape[0] == 1:
        weights[-1] = torch.cat([torch.zeros_like(weights[-1]), weights[-1]])
        biases[-1] = torch.cat([torch.zeros_like(biases[-1]), biases[-1]])
    classes = np.arange(len(biases[-1])) if classes is None else classes
    return Layers(tuple(weights), tuple(biases), tuple(activations), classes)


def largest_slope(activation: nn.Module) -> float:
    """Return the Lipschitz constant of an elementwise activation."""
    return SLOPES[type(activation)](activation)


def _parts(model: Any, shape: tuple[int, ...], affine: tuple[type, ...]) -> tuple[list[Part], Any]:
    """Return affine maps and activations in order, and the classes, None for those of a module."""
    if isinstance(model, nn.Module):
        return _module_parts(model, shape), None
    if isinstance(model, HasPipeline):
        return _parts(model.pipeline_, shape, affine)
    if isinstance(model, (GridSearchCV, RandomizedSearchCV)):
        check_is_fitted(model)
        return _parts(model.best_estimator_, shape, affine)
    if isinstance(model, Pipeline):
        model = [step for _, step in model.steps]
    if isinstance(model, (list, tuple)):
        front: list[Part] = []
        width = math.prod(shape)
        for transformer in model[:-1]:
            matrix, offset = (
                torch.from_numpy(a) for a in affine_map(transformer, width, affine=affine)
            )
            front.append((matrix, offset))
            width = matrix.shape[0]
        parts, classes = _parts(model[-1], (width,) if front else shape, affine)
        return front + parts, classes
    return _head_parts(model), model.classes_


def _head_parts(head: Any) -> list[Part]:
    if type(head) in LINEAR_HEADS:
        check_is_fitted(head)
        weight = _float64(np.atleast_2d(head.coef_))
        return [(weight, _float64(head.intercept_).expand(len(weight)))]
    if type(head) is not MLPClassifier:
        known = ", ".join(sorted(cls.__name__ for cls in LINEAR_HEADS | {MLPClassifier}))
        raise NotFoldableError(
            f"The head must be one of {known} or a torch Module; got {type(head).__name__}. "
            "Attacks, in `robustness_report`, work on any classifier."
        )
    check_is_fitted(head)
    parts: list[Part] = []
    for weight, bias in zip(head.coefs_, head.intercepts_, strict=True):
        parts += [(_float64(weight).T, _float64(bias)), MLP_ACTIVATIONS[head.activation]()]
    return [part for part in parts[:-1] if not isinstance(part, nn.Identity)]


def _module_parts(model: nn.Module, shape: tuple[int, ...]) -> list[Part]:
    """Return the parts of a stack of layers, in evaluation mode and float64."""
    modules = _flattened(copy.deepcopy(model).double().cpu().eval())
    if modules and type(modules[-1]) in LAST:
        modules = modules[:-1]
    parts: list[Part] = []
    for module in modules:
        if type(module) in AFFINE_MODULES and not _needs_batch(module):
            part, shape = _probed(module, shape)
            parts.append(part)
        elif type(module) in SLOPES and not _has_hooks(module):
            parts.append(module)
        else:
            known = ", ".join(sorted(cls.__name__ for cls in AFFINE_MODULES.union(SLOPES)))
            raise NotFoldableError(
                f"A torch head must be an nn.Sequential of {known}, without hooks, and batch "
                f"normalization must track statistics; got {type(module).__name__}. "
                "Attacks, in `robustness_report`, work on any module."
            )
    return parts


def _flattened(module: nn.Module) -> list[nn.Module]:
    if type(module) is not nn.Sequential or _has_hooks(module):
        return [module]
    return [part for child in module for part in _flattened(child)]


@torch.no_grad()
def _probed(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[tuple[Tensor, Tensor], tuple[int, ...]]:
    """Return matrix and offset of an affine module on flat inputs, and its output shape."""
    width = math.prod(shape)
    probes = torch.cat([torch.zeros(1, width), PROBE * torch.eye(width), torch.ones(1, width)])
    try:
        out = module(probes.double().reshape(-1, *shape))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{module} must take inputs of shape {shape}; it says: {error}") from None
    if len(out) != len(probes):
        raise ValueError(f"{module} must keep {len(probes)} rows apart; got {len(out)} from it.")
    offset, *moved, ones = out.reshape(width + 2, -1)
    matrix = (torch.stack(moved) - offset).T / PROBE
    # A hook may do anything to what the layer itself returns.
    size = float((matrix.abs().sum(1) + offset.abs()).max())
    if not torch.allclose(matrix.sum(1) + offset, ones, rtol=0.0, atol=1e-9 * size):
        raise NotFoldableError(f"{module} must be affine; it is not. Remove its hooks.")
    return (matrix, offset), tuple(out.shape[1:])


def _needs_batch(module: nn.Module) -> bool:
    """Return whether the output for one row depends on the others, in evaluation mode too."""
    return isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) and module.running_mean is None


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _float64(x: Any) -> Tensor:
    return torch.tensor(np.asarray(x, dtype=np.float64))
