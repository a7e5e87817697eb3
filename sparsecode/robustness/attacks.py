"""Attacks of the Adversarial Robustness Toolbox, on any classifier, checked in float64."""

import contextlib
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsecode._checks import check_choice, check_float
from sparsecode.robustness.target import Target

ORDERS = {"linf": np.inf, "l2": 2, "l1": 1}
ATTACKS = ("fgsm", "pgd", "mim", "square")
# The toolbox takes l_1 for Square, but does nothing then.
DEFINED = {"linf": ATTACKS, "l2": ATTACKS, "l1": ("fgsm", "pgd", "mim")}
SQUARE_SHARE = 0.8  # of the pixels, in the first tile of Square
SMALLEST_SIDE = {"linf": 2, "l2": 10}  # of images that Square can cut into tiles
# Mean margin of the scores that the toolbox sees. At 1 a softmax over ten classes mixes all rivals
# and attacks miss the nearest one; at 32 gradients vanish.
MARGIN = 8.0


def adversarial_examples(
    target: Target,
    X: np.ndarray,
    y: np.ndarray,
    *,
    attack: str,
    eps: float,
    norm: str = "linf",
    box: tuple[float, float] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    batch_size: int = 512,
    seed: int = 0,
) -> np.ndarray:
    """Return what an attack makes of each row, inside the ball of size `eps` and the box.

    Settings are those of the SPCA defense paper: "fgsm" one step; "pgd" 40 steps of eps / 4; "mim"
    10 steps of eps / 10 with momentum 1; "square" 250 queries. Two things differ from calling the
    toolbox directly, both in favor of the attacker: scores are scaled to a mean margin of 8, where
    a softmax singles out the nearest rival but does not saturate in float32, and no example is lost
    to rounding, since results are pulled back into ball and box in float64.

    Parameters
    ----------
    target : Target
    X : ndarray of shape (n_samples, n_features), float64
    y : ndarray of shape (n_samples,)
        True labels.
    attack : {"fgsm", "pgd", "mim", "square"}
        "square" is not defined in l_1.
    eps : float > 0
    norm : {"linf", "l2", "l1"}, default="linf"
    box : (low, high) or None, default=None
        Range that inputs are kept in.
    image_shape : (channels, height, width) or None, default=None
        Of a row, for "square". None takes one square channel. Images that the toolbox cannot cut
        into tiles get a margin that the classifier does not see, which makes the attack weaker.
    batch_size : int, default=512
    seed : int, default=0
        Of the toolbox's random choices; global random states are put back afterwards.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float64
        Not all of them change the prediction.

    Raises
    ------
    ImportError
        If the toolbox is not installed.

    References
    ----------
    Goodfellow et al. (2015), arXiv:1412.6572 (FGSM). Madry et al. (2018), arXiv:1706.06083 (PGD).
    Dong et al. (2018), arXiv:1710.06081 (MIM). Andriushchenko et al. (2020), arXiv:1912.00049
    (Square). Nicolae et al. (2018), "Adversarial Robustness Toolbox". arXiv:1807.01069.
    """
    check_choice("norm", norm, list(ORDERS))
    check_choice("attack", attack, DEFINED[norm])
    check_float("eps", eps, low=0.0, open_low=True)
    image = _image_shape(X.shape[1], image_shape) if attack == "square" else None
    side = 0 if image is None else _canvas_side(max(image[1:]), norm)
    canvas = (X.shape[1],) if image is None else (image[0], side, side)
    module = _Scaled(target.module, MARGIN / _mean_margin(target, X, y), X.shape[1], image)
    low, high = (-np.inf, np.inf) if box is None else box
    # Square in l_2 divides by zero where a step is at the boundary already; it drops such steps.
    with _toolbox_seeded(seed), np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        classifier = _classifier(module, canvas, len(target.classes), (low, high))
        engine = _engine(attack, classifier, ORDERS[norm], eps, batch_size)
        moved = engine.generate(_on_canvas(X, image, canvas), target.indices(y))
    if image is not None:
        moved = moved[:, :, : image[1], : image[2]]
    moved = moved.reshape(len(X), -1)[:, : X.shape[1]].astype(np.float64)
    return np.clip(X + _in_ball(moved - X, eps, norm), low, high)


def _in_ball(steps: np.ndarray, eps: float, norm: str) -> np.ndarray:
    """Shorten steps that rounding left slightly too long."""
    if norm == "linf":
        return np.clip(steps, -eps, eps)
    lengths = np.linalg.norm(steps, ord=ORDERS[norm], axis=1, keepdims=True)
    return steps * np.minimum(1.0, eps / np.maximum(lengths, np.finfo(float).tiny))


def _engine(attack: str, classifier: Any, order: float, eps: float, batch_size: int) -> Any:
    from art.attacks import evasion

    common = {"norm": order, "eps": eps, "batch_size": batch_size}
    if attack == "fgsm":
        return evasion.FastGradientMethod(classifier, eps_step=eps, **common)
    if attack == "pgd":
        return evasion.ProjectedGradientDescent(
            classifier, eps_step=eps / 4, max_iter=40, verbose=False, **common
        )
    if attack == "mim":
        return evasion.MomentumIterativeMethod(
            classifier, eps_step=eps / 10, max_iter=10, decay=1.0, verbose=False, **common
        )
    return evasion.SquareAttack(
        classifier, max_iter=250, p_init=SQUARE_SHARE, nb_restarts=1, verbose=False, **common
    )


def _classifier(
    module: nn.Module, shape: tuple[int, ...], n_classes: int, box: tuple[float, float]
) -> Any:
    try:
        from art.estimators.classification import PyTorchClassifier
    except ImportError as error:
        raise ImportError(
            "Attacks need the Adversarial Robustness Toolbox; it is not installed. "
            "Run pip install 'sparsecode[robustness]'."
        ) from error
    return PyTorchClassifier(
        model=module,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=n_classes,
        clip_values=box,
        device_type="cpu",
    )


class _Scaled(nn.Module):
    """Scores times a constant, of rows or of the images in the corner of each canvas."""

    def __init__(
        self, module: nn.Module, scale: float, n_features: int, image: tuple[int, int, int] | None
    ) -> None:
        super().__init__()
        self.module, self.scale, self.n_features, self.image = module, scale, n_features, image

    def forward(self, x: Tensor) -> Tensor:
        if self.image is not None:
            x = x[:, :, : self.image[1], : self.image[2]]
        return self.scale * self.module(x.flatten(1)[:, : self.n_features])


@torch.no_grad()
def _mean_margin(target: Target, X: np.ndarray, y: np.ndarray) -> float:
    scores = target.module(torch.from_numpy(X).float())
    labels = torch.from_numpy(target.indices(y))[:, None]
    others = scores.scatter(1, labels, -torch.inf).amax(1)
    margin = float((scores.gather(1, labels)[:, 0] - others).abs().mean())
    return margin if margin > 0 else 1.0


def _image_shape(n_features: int, image_shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    if image_shape is None:
        side = math.isqrt(n_features - 1) + 1
        return (1, side, side)
    if len(image_shape) != 3 or math.prod(image_shape) != n_features:
        raise ValueError(
            f"`image_shape` must be (channels, height, width) with {n_features} pixels in all; "
            f"got {image_shape}."
        )
    return image_shape


def _canvas_side(side: int, norm: str) -> int:
    """Return the side of the smallest square on which the first tile of Square can move."""
    side = max(side, SMALLEST_SIDE[norm])
    while True:
        tile = round(math.sqrt(SQUARE_SHARE) * side)
        # In l_2 the toolbox rounds tiles up to odd sizes.
        if (tile if norm == "linf" else tile + 1 - tile % 2) < side:
            return side
        side += 1


def _on_canvas(
    X: np.ndarray, image: tuple[int, int, int] | None, canvas: tuple[int, ...]
) -> np.ndarray:
    rows = X.astype(np.float32)
    if image is None:
        return rows
    images = np.zeros((len(X), math.prod(image)), dtype=np.float32)
    images[:, : X.shape[1]] = rows
    drawn = np.zeros((len(X), *canvas), dtype=np.float32)
    drawn[:, :, : image[1], : image[2]] = images.reshape(-1, *image)
    return drawn


@contextlib.contextmanager
def _toolbox_seeded(seed: int) -> Iterator[None]:
    """Seed the global random states, which the toolbox draws from, and put them back."""
    # The toolbox draws from the global state, so there is no Generator to pass.
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
