"""SparseCoder: codes of rows for a fixed dictionary, by any penalty and solver."""

from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted

from sparsecode.decomposition.rows import AddsUpAtoms, read_matrix, read_rows, written
from sparsecode.penalties import L1, AbstractPenalty, Convex, UnitNorm
from sparsecode.solvers import FISTA, ISTA, OMP, AbstractSolver, CoordinateDescent

DEFAULT_NONZERO = 10
DEFAULT_TOL = 1e-5  # of the lasso: what float32 can reach


class SparseCoder(AddsUpAtoms):
    """Transform rows into sparse codes of a fixed dictionary.

    Computations and results have the dtype of the input if that is float32 or float64; a tensor
    gives a tensor on its own device.

    Parameters
    ----------
    dictionary : array or Tensor of shape (n_components, n_features), or None, default=None
        One atom per row, used as given: not scaled to unit norm. None takes the rows that `fit`
        sees, scaled to unit norm, so that others are written as sums of few of them.
    penalty : AbstractPenalty or None, default=None
        Any of `sparsecode.penalties`, or your own. For the l1 norm of scikit-learn's
        `transform_alpha`, ``L1(transform_alpha)``.
    solver : AbstractSolver or None, default=None
        Any of `sparsecode.solvers`. None means ``OMP(10)`` without a penalty, `CoordinateDescent`
        for `L1`, `FISTA` for another convex one and `ISTA` for the rest.
    sparse_output : bool, default=False
        Whether `transform` returns a `scipy.sparse.csr_matrix`; no dense matrix of all codes is
        made then.
    device : str, default="auto"
        Where to compute: "cpu", "cuda" or another torch device. "auto" takes the device of a
        tensor, and for anything else the first GPU if there is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The dictionary.
    solver_ : AbstractSolver
        The solver in use.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    sklearn.decomposition.SparseCoder : l1 and OMP only; dense codes.

    Examples
    --------
    >>> from sparsecode.datasets import make_sparse_data
    >>> from sparsecode.penalties import CEL0
    >>> from sparsecode.solvers import OMP
    >>> X, dictionary, truth = make_sparse_data(100, 16, 32, k=2)
    >>> coder = SparseCoder(dictionary.numpy(), solver=OMP(2), sparse_output=True)
    >>> codes = coder.fit_transform(X.numpy())
    >>> codes.shape, codes.nnz
    ((100, 32), 200)
    >>> bool(abs(coder.inverse_transform(codes) - X.numpy()).mean() < 0.05)
    True
    >>> SparseCoder(dictionary, penalty=CEL0(0.01)).fit_transform(X).shape
    torch.Size([100, 32])
    """

    def __init__(
        self,
        dictionary: Any = None,
        *,
        penalty: AbstractPenalty | None = None,
        solver: AbstractSolver | None = None,
        sparse_output: bool = False,
        device: str = "auto",
    ) -> None:
        self.dictionary = dictionary
        self.penalty = penalty
        self.solver = solver
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "SparseCoder":
        """Check the settings against `X`; learn nothing, unless the dictionary is None.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        SparseCoder
            The estimator itself.

        Raises
        ------
        TypeError
            If solver and penalty do not fit each other.
        ValueError
            If the dictionary has another number of features, or anything is not finite.
        """
        rows = read_rows(self, X, reset=True, device=self.device, allow_nan=False)
        if self.dictionary is None:
            atoms = UnitNorm().prox(rows, 1.0)
        else:
            shape = (None, rows.shape[1])
            axes = ("n_components", "n_features")
            atoms = read_matrix("dictionary", self.dictionary, shape, axes)
        solver = default_solver(self.penalty) if self.solver is None else self.solver
        solver.solve(torch.zeros_like(rows[:1]), atoms.to(rows), penalty=self.penalty)
        self.solver_ = solver
        self.components_ = atoms.cpu().numpy().copy()
        return self

    def transform(self, X: Any) -> Any:
        """Return the codes of `X`.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)

        Returns
        -------
        ndarray, csr_matrix or Tensor of shape (n_samples, n_components)
            With `sparse_output` a CSR matrix; else a tensor for a tensor and an array for
            anything else.
        """
        check_is_fitted(self)
        rows = read_rows(self, X, reset=False, device=self.device, allow_nan=False)
        codes = self.solver_.solve(rows, self._atoms(rows), penalty=self.penalty).codes
        return written(codes, X, self.sparse_output)


def default_solver(penalty: AbstractPenalty | None) -> AbstractSolver:
    """Return the solver that serves a penalty when none is named."""
    if penalty is None:
        return OMP(DEFAULT_NONZERO)
    if isinstance(penalty, L1):
        return CoordinateDescent(tol=DEFAULT_TOL)
    return FISTA() if isinstance(penalty, Convex) else ISTA()
