"""SparsePCA: principal components with few non-zero loadings, as a scikit-learn transformer."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from sparsecode._checks import check_choice, check_finite, check_float, check_int, check_shape
from sparsecode.decomposition.adjusted_variance import adjusted_variance, with_stable_signs
from sparsecode.decomposition.loadings import LoadingsProblem, unit_components
from sparsecode.decomposition.principal_rows import PrincipalRows
from sparsecode.decomposition.varimax import varimax
from sparsecode.penalties import AbstractPenalty

TRANSFORMS = ("projection", "ridge")
STARTS = ("varimax", "svd", "random")
PARTIAL_FIT_STEPS = 10
AUTO_STARTS, SMALL_PROBLEM = 8, 1 << 22  # entries of (components, principal rows, features)


class SparsePCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Find directions of large variance that depend on few features each.

    Minimizes ``1/2 ||X - U V||^2 + alpha ||V||_1`` over loadings V and scores U with columns in the
    unit ball, X centered: the objective of `sklearn.decomposition.SparsePCA`. All solvers work on
    the scatter matrix of the data, compressed to at most min(n_samples, n_features) rows, so that
    an iteration costs the same for any number of samples. Computations are in float64; results have
    the dtype of the input if that is float32 or float64. A tensor gives a tensor.

    Parameters
    ----------
    n_components : int or None, default=None
        Components K, at most min(n_samples, n_features), which None takes.
    solver : {"elastic_net", "proximal_gradient", "tpower"}, default="elastic_net"
        "elastic_net" alternates coordinate descent in V and in U; "proximal_gradient" takes
        proximal steps in V and so any `penalty`; "tpower" finds one component after the other by
        truncated power iteration, needs `n_nonzero`, and maximizes variance instead of the
        objective above.
    alpha : float or None, default=None
        Weight of the l1 norm, in the units of scikit-learn: larger is sparser, and the same value
        is weaker for more samples. None means 1.0, unless `n_nonzero` or `penalty` is given.
    n_nonzero : int or None, default=None
        Exact number of non-zero loadings of each component, instead of the l1 norm.
    l2_alpha : float, default=0.0
        Adds ``l2_alpha / 2 ||V||^2``, the other part of an elastic net; for "elastic_net" only.
    penalty : AbstractPenalty or None, default=None
        Penalty on V in place of the l1 norm, such as `sparsecode.penalties.L0` or your own; for
        "proximal_gradient" only.
    transform_algorithm : {"projection", "ridge"}, default="projection"
        Scores of a row x: "projection" is ``V x``, as in the robustness paper below; "ridge" is the
        least squares fit ``(V V.T + ridge_alpha I)^-1 V x``, as in scikit-learn.
    ridge_alpha : float, default=0.01
        Of the "ridge" transform.
    whiten : bool, default=False
        Whether scores are divided by their standard deviation over the training data. This makes
        directions of low variance as important as others to whatever follows.
    init : {"varimax", "svd", "random"} or ndarray, default="varimax"
        Loadings of shape (n_components, n_features) to start from: principal components, rotated
        so that few loadings are large; unrotated as in scikit-learn; or random. "tpower" has
        starts of its own.
    n_init : int or "auto", default="auto"
        Starts, of which the one that ends lowest is kept: `init`, then the other of "varimax" and
        "svd", then random ones. The objective has many minima, a percent or two apart. "auto" takes
        8 for small problems, where they are cheap, and 1 for large ones, for `n_nonzero`, where
        random starts converge slowly and rarely end lower, and for an array as `init`.
    max_iter : int, default=1000
        Alternations, or power steps for one component.
    tol : float, default=1e-5
        Stop when the objective falls by less than this share of it, twice in a row.
    random_state : int, RandomState instance or None, default=0
        Of random starts; everything else is deterministic.
    device : str, default="auto"
        Where to compute: "cpu", "cuda" or another torch device; "auto" takes the first GPU if there
        is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Loadings, rows of unit norm, none of them zero. Ordered by `explained_variance_`; the
        largest entry of a row is positive.
    mean_ : ndarray of shape (n_features,)
    projection_ : ndarray of shape (n_components, n_features)
        The linear map of the chosen transform, whitening included: ``(X - mean_) @ projection_.T``.
    scale_ : ndarray of shape (n_components,)
        Standard deviations by which `whiten` divides; ones without it.
    explained_variance_ : ndarray of shape (n_components,)
        Adjusted for correlated scores: what each component adds to those before it, never
        increasing.
    explained_variance_ratio_ : ndarray of shape (n_components,)
        The same as a share of the variance of all features.
    error_ : ndarray
        Objective after each iteration; for "tpower", half the squared residual after each
        component.
    n_unused_ : int
        Components for which nothing was left to explain under this penalty. Instead of zeros they
        hold the features that the others explain least.
    n_iter_ : int
        Iterations done.
    n_samples_seen_ : int
        Rows learned from.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    sklearn.decomposition.SparsePCA : The same objective; without explained variance or GPU.
    sparsecode.robustness.SparsePCAClassifier : With a classifier on top, and robustness
    certificates.

    Notes
    -----
    `fit` starts anew; `partial_fit` continues from whatever was learned before, by either of them.
    For that, an estimator keeps the scatter of all rows seen as an array of at most
    (n_features, n_features), which is pickled with it. After the same rows, `partial_fit` minimizes
    the same objective as `fit`, whatever the batches were.

    References
    ----------
    Zou, Hastie & Tibshirani (2006), "Sparse principal component analysis". Yuan & Zhang (2013),
    "Truncated power method for sparse eigenvalue problems". arXiv:1112.2679. Steunou, Druilhe &
    Saue (2025), "Sparse representations improve adversarial robustness of neural network
    classifiers". arXiv:2509.21130.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(200, 2)) * [3, 2]
    >>> X = np.hstack([z[:, [0, 0, 0]], z[:, [1, 1]], np.zeros((200, 3))])
    >>> X += 0.1 * rng.normal(size=X.shape)
    >>> pca = SparsePCA(n_components=2, alpha=5.0).fit(X)
    >>> pca.components_.round(1)
    array([[0.6, 0.6, 0.6, 0. , 0. , 0. , 0. , 0. ],
           [0. , 0. , 0. , 0.7, 0.7, 0. , 0. , 0. ]])
    >>> pca.transform(X).shape, bool(pca.explained_variance_ratio_.sum() > 0.99)
    ((200, 2), True)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        solver: str = "elastic_net",
        alpha: float | None = None,
        n_nonzero: int | None = None,
        l2_alpha: float = 0.0,
        penalty: AbstractPenalty | None = None,
        transform_algorithm: str = "projection",
        ridge_alpha: float = 0.01,
        whiten: bool = False,
        init: str | np.ndarray = "varimax",
        n_init: int | str = "auto",
        max_iter: int = 1000,
        tol: float = 1e-5,
        random_state: Any = 0,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.alpha = alpha
        self.n_nonzero = n_nonzero
        self.l2_alpha = l2_alpha
        self.penalty = penalty
        self.transform_algorithm = transform_algorithm
        self.ridge_alpha = ridge_alpha
        self.whiten = whiten
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "SparsePCA":
        """Learn from all rows of `X`, forgetting what was learned before.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
            At least two rows.
        y : None
            Ignored.

        Returns
        -------
        SparsePCA
            The estimator itself.

        Raises
        ------
        ValueError
            If `X` holds NaN or infinity, or a parameter is out of range.
        """
        X_ND = self._validated(X, reset=True, min_samples=2)
        problem = self._problem(X_ND.shape[1])
        n_components = _n_components(self.n_components, *X_ND.shape)
        data = PrincipalRows.of(X_ND.detach(), device=_device(self.device))
        return self._solve(problem, data, self._starts(data.rows, n_components), X_ND.dtype)

    def partial_fit(self, X: Any, y: Any = None) -> "SparsePCA":
        """Go on learning: add the rows of `X` to the scatter and improve the components.

        The first call starts as `fit` does. Each later call goes on from the components of the call
        before, by at most ten alternations; where `n_init` gives several starts, it solves the
        problem of all rows seen from these as well. "tpower" solves it anew.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
            The first batch needs two rows, and as many as there are components.
        y : None
            Ignored.

        Returns
        -------
        SparsePCA
            The estimator itself.

        Raises
        ------
        ValueError
            As in `fit`, and if the number of features is not that of the first call.
        """
        known: PrincipalRows | None = vars(self).get("_data")
        if known is None:
            return self.fit(X)
        X_ND = self._validated(X, reset=False, min_samples=1)
        problem = self._problem(X_ND.shape[1])
        device = _device(self.device)
        data = PrincipalRows(known.n_samples, known.mean.to(device), known.rows.to(device)).updated(
            X_ND.detach()
        )
        warm = torch.tensor(self.components_, dtype=torch.float64, device=device)
        starts = self._starts(data.rows, len(warm))
        if len(starts) == 1:
            problem = replace(problem, max_iter=min(problem.max_iter, PARTIAL_FIT_STEPS))
            return self._solve(problem, data, [warm], X_ND.dtype)
        return self._solve(problem, data, [warm, *starts], X_ND.dtype)

    def transform(self, X: Any) -> Any:
        """Return the scores ``(X - mean_) @ projection_.T``.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)

        Returns
        -------
        ndarray or Tensor of shape (n_samples, n_components)
            A tensor for a tensor, on its device and differentiable; an array for anything else.
        """
        check_is_fitted(self)
        if isinstance(X, Tensor):
            X = self._validated(X, reset=False, min_samples=1)
            return (X - torch.tensor(self.mean_).to(X)) @ torch.tensor(self.projection_).to(X).T
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return (X - self.mean_.astype(X.dtype)) @ self.projection_.T.astype(X.dtype)

    def inverse_transform(self, X: Any) -> Any:
        """Return the rows that scores stand for.

        For "projection" scores these are the closest points in the span of the components (scores
        are multiplied by the pseudo-inverse, since sparse components are not orthogonal), for
        "ridge" scores ``X @ components_``; the mean is added.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_components)

        Returns
        -------
        ndarray or Tensor of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        was_tensor = isinstance(X, Tensor)
        Z = X.detach().cpu().numpy() if was_tensor else X
        kinds: Any = [np.float64, np.float32]
        Z = check_array(Z, dtype=kinds, input_name="X")
        if Z.shape[1] != self.components_.shape[0]:
            raise ValueError(
                "`X` must hold scores of shape (n_samples, n_components) = "
                f"(any, {self.components_.shape[0]}); got {Z.shape}."
            )
        projected = self.transform_algorithm == "projection"
        back = np.linalg.pinv(self.components_).T if projected else self.components_
        rows = (Z * self.scale_.astype(Z.dtype)) @ back.astype(Z.dtype) + self.mean_.astype(Z.dtype)
        return torch.from_numpy(rows).to(X.device) if was_tensor else rows

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validated(self, X: Any, *, reset: bool, min_samples: int) -> Tensor:
        """Return `X` as a floating tensor of finite numbers."""
        if isinstance(X, Tensor):
            _check_tensor(X, min_samples)
            seen: Any = X if X.is_floating_point() else X.double()
            validate_data(self, seen, reset=reset, skip_check_array=True)
            return seen
        kinds = [np.float64, np.float32]
        X = validate_data(self, X, reset=reset, dtype=kinds, ensure_min_samples=min_samples)
        return torch.from_numpy(np.require(X, requirements=["C", "W"]))

    def _problem(self, n_features: int) -> LoadingsProblem:
        """Return the settings of the solver; all parameters are checked here."""
        check_choice("transform_algorithm", self.transform_algorithm, TRANSFORMS)
        check_float("ridge_alpha", self.ridge_alpha, low=0.0)
        if self.n_nonzero is not None:
            check_int("n_nonzero", self.n_nonzero, low=1, high=n_features, high_name="n_features")
        if isinstance(self.init, str):
            check_choice("init", self.init, STARTS)
        if self.n_init != "auto":
            check_int("n_init", self.n_init, low=1)
        return LoadingsProblem(
            **{field.name: getattr(self, field.name) for field in fields(LoadingsProblem)}
        )

    def _starts(self, rows: Tensor, n_components: int) -> list[Tensor]:
        """Return loadings of shape (n_components, n_features) to start from."""
        given = not isinstance(self.init, str)
        small = n_components * rows.numel() <= SMALL_PROBLEM and self.n_nonzero is None
        auto = AUTO_STARTS if small and not given else 1
        n_init = auto if self.n_init == "auto" else int(self.n_init)
        named = self._named_starts(rows, n_components, n_init)
        return named + self._random_starts(rows, n_components, n_init - len(named))

    def _named_starts(self, rows: Tensor, n_components: int, most: int) -> list[Tensor]:
        if not isinstance(self.init, str):
            start = torch.as_tensor(np.asarray(self.init), dtype=rows.dtype, device=rows.device)
            shape = (n_components, rows.shape[1])
            return [
                check_finite(
                    "init", check_shape("init", start, shape, ("n_components", "n_features"))
                )
            ]
        if self.init == "random":
            return []
        missing = max(0, n_components - rows.shape[0])
        leading = torch.nn.functional.pad(rows[:n_components], (0, 0, 0, missing))
        names = ("varimax", "svd") if self.init == "varimax" else ("svd", "varimax")
        return [varimax(leading) if name == "varimax" else leading for name in names[:most]]

    def _random_starts(self, rows: Tensor, n_components: int, n_starts: int) -> list[Tensor]:
        random = check_random_state(self.random_state)
        shape = (n_components, rows.shape[0])
        mixings = (random.standard_normal(shape) for _ in range(n_starts))
        return [torch.from_numpy(mixing).to(rows) @ rows for mixing in mixings]

    def _solve(
        self,
        problem: LoadingsProblem,
        data: PrincipalRows,
        starts: list[Tensor],
        dtype: torch.dtype,
    ) -> "SparsePCA":
        """Solve from each start and set all learned attributes by the best solution."""
        solutions = (problem.solve(data.rows, start) for start in starts)
        loadings, errors, n_iter = min(solutions, key=lambda solution: solution.errors[-1])
        components, self.n_unused_ = unit_components(data.rows, loadings, problem.n_kept)
        order, variances = adjusted_variance(data.rows, components)
        components = with_stable_signs(components[order])
        degrees = max(data.n_samples - 1, 1)
        linear_map = self._linear_map(components)
        scale = ((linear_map @ data.rows.T).square().sum(1) / degrees).sqrt()
        scale = scale.where(scale > 0, 1.0) if self.whiten else torch.ones_like(scale)
        total = data.total_variance

        def array(x: Tensor) -> np.ndarray:
            return x.to("cpu", dtype).numpy()

        self.components_ = array(components)
        self.mean_ = array(data.mean)
        self.scale_ = array(scale)
        self.projection_ = array(linear_map / scale[:, None])
        self.explained_variance_ = array(variances / degrees)
        self.explained_variance_ratio_ = array(variances / degrees / (total if total > 0 else 1.0))
        self.error_ = np.array(errors)
        self.n_iter_ = n_iter
        self.n_samples_seen_ = data.n_samples
        self._data = PrincipalRows(data.n_samples, data.mean.cpu(), data.rows.cpu())
        return self

    def _linear_map(self, components: Tensor) -> Tensor:
        """Return the matrix of shape (K, P) from centered rows to scores, before whitening."""
        if self.transform_algorithm == "projection":
            return components
        gram = components @ components.T
        gram.diagonal().add_(float(self.ridge_alpha))
        return (
            torch.linalg.lstsq(gram, components).solution
            if self.ridge_alpha == 0
            else torch.linalg.solve(gram, components)
        )


def _n_components(n_components: Any, n_samples: int, n_features: int) -> int:
    most = min(n_samples, n_features)
    if n_components is None:
        return most
    return check_int(
        "n_components", n_components, low=1, high=most, high_name="min(n_samples, n_features)"
    )


def _check_tensor(X: Tensor, min_samples: int) -> None:
    dtype = str(X.dtype).removeprefix("torch.")
    if X.ndim != 2 or 0 in X.shape or X.shape[0] < min_samples or X.is_complex():
        raise ValueError(
            "`X` must be a real tensor of shape (n_samples, n_features) with at least "
            f"{min_samples} rows and one feature; got shape {tuple(X.shape)}, dtype {dtype}."
        )
    check_finite("X", X)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f'`device` must be "auto" or a torch device; got {name!r}.') from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` must be usable; got {name!r}, but torch sees no GPU here.")
    return device
