"""One report on the robustness of any classifier: clean, certified and attacked accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sparsecode._checks import check_choice, check_float
from sparsecode.robustness.affine import NotFoldableError
from sparsecode.robustness.attacks import DEFINED, ORDERS, adversarial_examples
from sparsecode.robustness.certificates import Certificate, certify, check_box, flat_rows
from sparsecode.robustness.target import Target, target_of


@dataclass(frozen=True, eq=False)
class RobustnessReport:
    """What a classifier withstands.

    Parameters
    ----------
    eps : ndarray of shape (n_eps,)
        Sizes of the steps, increasing.
    norm : {"linf", "l2", "l1"}
    clean : float
        Accuracy without an attack.
    broken_at : dict of str to ndarray of shape (n_samples,)
        For each attack, the smallest `eps` at which it changed the prediction of each input: 0
        where the prediction was wrong already, infinity where no attack succeeded.
    certificate : Certificate or None
        None for classifiers without one.
    gradients : {"exact", "finite differences"}
        What the attacks followed. Finite differences of a front end with jumps or plateaus may
        mislead them: its attacked accuracy can be too high.
    """

    eps: np.ndarray
    norm: str
    clean: float
    broken_at: dict[str, np.ndarray]
    certificate: Certificate | None
    gradients: str

    @property
    def accuracy(self) -> dict[str, np.ndarray]:
        """Accuracy at each eps: "clean", "certified", each attack, and "worst" of all attacks.

        The certified accuracy is a lower bound, all others are upper bounds of the true robust
        accuracy; "worst" counts an input as broken if any attack succeeded.
        """
        curves = {"clean": np.full(len(self.eps), self.clean)}
        if self.certificate is not None:
            curves["certified"] = self.certificate.accuracy(self.eps)
        for name, broken in self.broken_at.items():
            curves[name] = (broken > self.eps[:, None]).mean(1)
        if self.broken_at:
            first = np.minimum.reduce(list(self.broken_at.values()))
            curves["worst"] = (first > self.eps[:, None]).mean(1)
        return curves

    @property
    def n_contradictions(self) -> int:
        """Attacks that succeeded inside a certified ball; anything but 0 is a mistake somewhere."""
        if self.certificate is None:
            return 0
        radius = self.certificate.radius
        return sum(int((broken < radius).sum()) for broken in self.broken_at.values())

    def __getitem__(self, name: str) -> np.ndarray:
        return self.accuracy[name]

    def __str__(self) -> str:
        kind = (
            "no certificate" if self.certificate is None else f"certificate {self.certificate.kind}"
        )
        lines = [f"Robustness in {self.norm}; gradients {self.gradients}; {kind}"]
        lines.append("eps".ljust(10) + "".join(f"{eps:8.3g}" for eps in self.eps))
        for name, curve in self.accuracy.items():
            lines.append(name.ljust(10) + "".join(f"{100 * value:7.1f}%" for value in curve))
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the curves and what they are, ready for JSON."""
        kind = None if self.certificate is None else self.certificate.kind
        curves = {name: curve.tolist() for name, curve in self.accuracy.items()}
        return {
            "norm": self.norm,
            "eps": self.eps.tolist(),
            "accuracy": curves,
            "certificate": kind,
            "gradients": self.gradients,
        }


def robustness_report(
    model: Any,
    X: Any,
    y: Any,
    eps: float | Sequence[float],
    norm: str = "linf",
    *,
    attacks: Sequence[str] | None = None,
    box: tuple[float, float] | None = None,
    image_shape: tuple[int, int, int] | None = None,
    affine: Sequence[type] = (),
    difference_step: float = 1e-2,
    seed: int = 0,
) -> RobustnessReport:
    """Measure clean, certified and attacked accuracy of any classifier.

    Each attack is run for each eps, on the inputs that it has not broken with a smaller one.
    Classifiers that are layers of known kind have a certificate and exact gradients; torch modules
    have exact gradients; any other scikit-learn classifier, on k-sparse or dictionary codes for
    example, is attacked through central differences of its scores.

    Parameters
    ----------
    model : fitted scikit-learn classifier or pipeline, torch Module, or list of fitted parts
    X : array, sparse matrix or Tensor of shape (n_samples, ...)
    y : array or Tensor of shape (n_samples,)
        True labels; for a Module the indices of its outputs.
    eps : float > 0 or sequence of them
        Sizes of the steps.
    norm : {"linf", "l2", "l1"}, default="linf"
    attacks : sequence of {"fgsm", "pgd", "mim", "square"} or None, default=None
        None runs all; "square" is not defined in l_1. An empty sequence needs no attack library.
    box : (low, high) or None, default=None
        Range that attackers must keep inputs in, such as (0, 1) for images. Certificates do not use
        it and are then lower bounds.
    image_shape : (channels, height, width) or None, default=None
        Of a row, for the square tiles of "square".
    affine : sequence of classes, default=()
        Further transformer classes that are affine; see `affine_map`.
    difference_step : float, default=1e-2
        Of the central differences, in units of the input.
    seed : int, default=0
        Of the attacks' random choices.

    Returns
    -------
    RobustnessReport

    Raises
    ------
    ImportError
        If attacks are wanted and the attack library is not installed.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_digits(return_X_y=True)
    >>> model = LogisticRegression(max_iter=5000).fit(X[:1000] / 16, y[:1000])
    >>> report = robustness_report(model, X[1000:] / 16, y[1000:], [0.05, 0.1], attacks=())
    >>> {name: curve.round(2).tolist() for name, curve in report.accuracy.items()}
    {'clean': [0.93, 0.93], 'certified': [0.77, 0.46]}
    """
    check_choice("norm", norm, list(ORDERS))
    attacks = DEFINED[norm] if attacks is None else attacks
    for name in attacks:
        check_choice("attacks", name, DEFINED[norm])
    check_box(box)
    values = np.ravel(np.asarray(eps)).tolist()
    sizes = np.array(sorted({check_float("eps", v, low=0.0, open_low=True) for v in values}))
    if not len(sizes):
        raise ValueError(f"`eps` must hold at least one step size; got {eps!r}.")
    shape, rows, labels = _read(X, y, box)
    target = target_of(model, shape, affine=affine, step=difference_step)
    right = target.predict(rows) == labels
    settings = {"norm": norm, "box": box, "image_shape": image_shape, "seed": seed}
    broken = {
        name: _broken_at(target, rows, labels, right, sizes, attack=name, **settings)
        for name in attacks
    }
    try:
        certificate = certify(model, rows.reshape(-1, *shape), labels, norm, box=box, affine=affine)
    except NotFoldableError:
        certificate = None
    return RobustnessReport(sizes, norm, float(right.mean()), broken, certificate, target.gradients)


def _broken_at(
    target: Target,
    X: np.ndarray,
    y: np.ndarray,
    right: np.ndarray,
    sizes: np.ndarray,
    **settings: Any,
) -> np.ndarray:
    broken = np.where(right, np.inf, 0.0)
    for eps in sizes:
        left = np.flatnonzero(np.isinf(broken))
        if not len(left):
            break
        moved = adversarial_examples(target, X[left], y[left], eps=float(eps), **settings)
        broken[left[target.predict(moved) != y[left]]] = eps
    return broken


def _read(
    X: Any, y: Any, box: tuple[float, float] | None
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Return the shape of a row, flat float64 rows inside the box, and labels."""
    shape, rows = flat_rows(X)
    labels = np.asarray(y.cpu() if isinstance(y, Tensor) else y)
    if labels.shape != (len(rows),):
        raise ValueError(f"`y` must have shape (n_samples,) = ({len(rows)},); got {labels.shape}.")
    if box is not None and not (box[0] <= rows.min() and rows.max() <= box[1]):
        raise ValueError(
            f"`X` must lie in `box` = {box}; got entries from {rows.min():g} to {rows.max():g}."
        )
    return shape, rows.numpy(), labels
