"""SparsePCAClassifier: a classifier on sparse principal components, with certificates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from sparsecode._checks import check_choice, check_float, check_int
from sparsecode.decomposition import SparsePCA
from sparsecode.robustness.certificates import Certificate, certify
from sparsecode.robustness.layers import HasPipeline
from sparsecode.robustness.report import RobustnessReport, robustness_report

HEADS = ("linear", "mlp")


class SparsePCAClassifier(ClassifierMixin, HasPipeline, BaseEstimator):
    """Classify sparse principal components: an input moves few of them, and each little.

    The SPCA defense: a fixed sparse projection, its scores scaled to unit variance, and a linear or
    small network head on them. The head is trained on ordinary data only; for the linear one,
    `certify` says exactly how far each input may move before its prediction can change.

    Parameters
    ----------
    n_components : int or None, default=None
        Of `SparsePCA`; None takes min(n_samples, n_features).
    alpha : float or None, default=None
        Of `SparsePCA`: weight of the l1 norm, 1.0 if `n_nonzero` is not given either.
    n_nonzero : int or None, default=None
        Of `SparsePCA`: exact number of non-zero loadings of each component.
    solver : {"elastic_net", "proximal_gradient", "tpower"}, default="elastic_net"
        Of `SparsePCA`.
    whiten : bool, default=True
        Whether scores are scaled to unit variance, as in the paper. Scaling makes components of low
        variance count as much as others. It changes accuracy and radii by as much as sparsity does,
        so compare both settings.
    head : {"linear", "mlp"}, default="linear"
        "linear" is a logistic regression, whose certificates are exact; "mlp" a network with ReLU
        units and certificates that are lower bounds.
    hidden_layer_sizes : tuple of int, default=(128,)
        Of the "mlp" head.
    C : float, default=1.0
        Inverse strength of the l2 regularization of the "linear" head.
    n_epochs : int, default=20
        Passes of Adam over the data for the "mlp" head.
    batch_size : int, default=128
        Of the "mlp" head.
    learning_rate : float, default=0.001
        Of the "mlp" head.
    random_state : int, RandomState instance or None, default=None
        Of the "mlp" head's weights and batches.
    device : str, default="auto"
        Of `SparsePCA`.

    Attributes
    ----------
    front_end_ : SparsePCA
    head_ : LogisticRegression or MLPClassifier
    pipeline_ : Pipeline
        Both of them, fitted: whatever takes a scikit-learn pipeline takes this.
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    sparsecode.robustness.robustness_report : The same report for any other classifier.

    References
    ----------
    Steunou, Druilhe & Saue (2025), "Sparse representations improve adversarial robustness of neural
    network classifiers". arXiv:2509.21130. Differs from it in a front end that is solved to
    convergence.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SparsePCAClassifier(n_components=30, n_nonzero=8).fit(X[:1000] / 16, y[:1000])
    >>> certificate = model.certify(X[1000:] / 16, y[1000:], norm="l2")
    >>> certificate.kind, bool(certificate.accuracy(0.1) > 0.7)
    ('exact', True)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float | None = None,
        n_nonzero: int | None = None,
        solver: str = "elastic_net",
        whiten: bool = True,
        head: str = "linear",
        hidden_layer_sizes: tuple[int, ...] = (128,),
        C: float = 1.0,
        n_epochs: int = 20,
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.n_nonzero = n_nonzero
        self.solver = solver
        self.whiten = whiten
        self.head = head
        self.hidden_layer_sizes = hidden_layer_sizes
        self.C = C
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> "SparsePCAClassifier":
        """Fit the front end on `X` and the head on its scores.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)
        y : array of shape (n_samples,)
            Labels of at least two classes.

        Returns
        -------
        SparsePCAClassifier
            The estimator itself.

        Raises
        ------
        ValueError
            If `y` holds one class only, or a parameter is out of range.
        """
        check_choice("head", self.head, HEADS)
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"`y` must hold at least two classes; got one class, {self.classes_[0]!r}."
            )
        self.front_end_ = SparsePCA(
            self.n_components,
            alpha=self.alpha,
            n_nonzero=self.n_nonzero,
            solver=self.solver,
            whiten=self.whiten,
            device=self.device,
        ).fit(X)
        self.head_ = self._fitted_head(self.front_end_.transform(X), y)
        return self

    @property
    def pipeline_(self) -> Pipeline:
        """Front end and head as a fitted pipeline."""
        check_is_fitted(self)
        return Pipeline([("front_end", self.front_end_), ("head", self.head_)])

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted label of each row.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        Z = self._scores(X)
        return self.head_.predict(Z)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        Z = self._scores(X)
        return self.head_.predict_proba(Z)

    @available_if(lambda self: self.head == "linear")
    def decision_function(self, X: Any) -> np.ndarray:
        """Return the linear head's scores.

        Parameters
        ----------
        X : array or data frame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,) for two classes
        """
        Z = self._scores(X)
        return self.head_.decision_function(Z)

    def certify(
        self, X: Any, y: Any, norm: str = "linf", *, box: tuple[float, float] | None = None
    ) -> Certificate:
        """Return how far each input may move before its prediction can leave its label.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y : array of shape (n_samples,)
        norm : {"linf", "l2", "l1"}, default="linf"
        box : (low, high) or None, default=None
            As in `sparsecode.robustness.certify`.

        Returns
        -------
        Certificate
            Exact for the "linear" head, a lower bound for "mlp" and inside a box; `kind` says
            which.
        """
        check_is_fitted(self)
        return certify(self, X, y, norm, box=box)

    def robustness_report(
        self,
        X: Any,
        y: Any,
        eps: float | Sequence[float],
        norm: str = "linf",
        *,
        attacks: Sequence[str] | None = None,
        box: tuple[float, float] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        seed: int = 0,
    ) -> RobustnessReport:
        """Return clean, certified and attacked accuracy for each step size.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y : array of shape (n_samples,)
        eps : float > 0 or sequence of them
        norm : {"linf", "l2", "l1"}, default="linf"
        attacks : sequence of str or None, default=None
            Of "fgsm", "pgd", "mim" and "square"; None takes those that fit the norm.
        box : (low, high) or None, default=None
            Range that attackers must keep inputs in.
        image_shape : (channels, height, width) or None, default=None
            Of a row, for the square tiles of "square".
        seed : int, default=0
            Of the attacks' random choices.

        Returns
        -------
        RobustnessReport
        """
        check_is_fitted(self)
        return robustness_report(
            self, X, y, eps, norm, attacks=attacks, box=box, image_shape=image_shape, seed=seed
        )

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return self.front_end_.transform(X)

    def _fitted_head(self, Z: np.ndarray, y: np.ndarray) -> Any:
        if self.head == "linear":
            C = check_float("C", self.C, low=0.0, open_low=True)
            return LogisticRegression(C=C, max_iter=10_000).fit(Z, y)
        batch_size: Any = min(check_int("batch_size", self.batch_size, low=1), len(Z))
        head = MLPClassifier(
            self.hidden_layer_sizes,
            alpha=0.0,
            batch_size=batch_size,
            learning_rate_init=check_float(
                "learning_rate", self.learning_rate, low=0.0, open_low=True
            ),
            random_state=check_random_state(self.random_state).randint(2**31 - 1),
        )
        for _ in range(check_int("n_epochs", self.n_epochs, low=1)):
            head.partial_fit(Z, y, classes=self.classes_)
        return head
