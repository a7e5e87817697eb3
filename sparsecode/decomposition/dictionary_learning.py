"""DictionaryLearning: atoms and sparse codes in turn, in batches or online."""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.decomposition.atoms import AtomSums, random_rows
from sparsecode.decomposition.rows import AddsUpAtoms, read_matrix, read_rows, written
from sparsecode.decomposition.sparse_coder import default_solver
from sparsecode.penalties import L1, AbstractPenalty, UnitNorm
from sparsecode.solvers import AbstractSolver, NotConvergedWarning, SolverResult

DEFAULT_ALPHA = 1.0


class DictionaryLearning(AddsUpAtoms):
    """Learn atoms of unit norm whose sparse sums are the rows.

    Minimizes ``sum_n 1/2 ||x_n - z_n D||^2 + penalty(z_n)`` over codes and atoms of norm 1, online:
    each batch is coded with the atoms of the moment, its products are added to running sums, and
    every atom in turn is set to its best value under these. What came before the last pass fades
    out, so that the dictionary does not stay with its first, poor codes. An atom that no row of a
    pass used becomes one of the rows that were explained worst.

    Parameters
    ----------
    n_components : int or None, default=None
        Atoms. May exceed the number of features; None takes as many as there are features.
    penalty : AbstractPenalty or None, default=None
        Any of `sparsecode.penalties`. None means ``L1(1.0)``, the objective of scikit-learn with
        ``alpha=1``, unless `solver` is one that takes no penalty.
    solver : AbstractSolver or None, default=None
        Any of `sparsecode.solvers`, such as ``OMP(5)``. None takes `CoordinateDescent` for `L1`,
        `FISTA` for another convex penalty and `ISTA` for the rest.
    batch_size : int or None, default=256
        Rows of an online step; None takes all rows, which is alternating minimization.
    max_epochs : int, default=20
        Passes over the rows in `fit`.
    tol : float, default=0.001
        `fit` ends when a pass changes the atoms by less than this share of their norm.
    nonnegative : bool, default=False
        Whether atoms have no negative entries.
    metric : array or Tensor of shape (n_features, n_features), or None, default=None
        Measures errors by ``(x - z D) metric (x - z D)^T`` with a positive definite matrix. To
        compress weights W of shape (n_out, n_in), fit their rows with the Gram matrix of the
        layer's inputs, ``inputs.T @ inputs``: then the error counted is that of its outputs.
    init : array of shape (n_components, n_features) or None, default=None
        Atoms to begin with; None takes random rows, filled up with random directions.
    random_state : int, RandomState instance or None, default=0
        Of the start and the order of rows.
    sparse_output : bool, default=False
        Whether `transform` returns a `scipy.sparse.csr_matrix`.
    device : str, default="auto"
        Where to compute; "auto" takes the device of a tensor, and for anything else the first GPU
        if there is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The dictionary; with a `metric` of norm 1 under it.
    error_ : ndarray
        Mean objective of a row in each pass, with the atoms of the moment.
    n_iter_ : int
        Passes done.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    sklearn.decomposition.MiniBatchDictionaryLearning : l1 only; dense codes.

    References
    ----------
    Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse
    coding", algorithms 1 and 2. The metric is that of CoSpaDi (2025), arXiv:2509.22075.

    Examples
    --------
    >>> from sparsecode.datasets import make_sparse_data
    >>> from sparsecode.solvers import OMP
    >>> X, dictionary, _ = make_sparse_data(500, 16, 20, k=2)
    >>> model = DictionaryLearning(20, solver=OMP(2), max_epochs=10, tol=0.0).fit(X)
    >>> bool(model.error_[-1] < 0.5 * model.error_[0])
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        penalty: AbstractPenalty | None = None,
        solver: AbstractSolver | None = None,
        batch_size: int | None = 256,
        max_epochs: int = 20,
        tol: float = 0.001,
        nonnegative: bool = False,
        metric: Any = None,
        init: Any = None,
        random_state: Any = 0,
        sparse_output: bool = False,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.penalty = penalty
        self.solver = solver
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.tol = tol
        self.nonnegative = nonnegative
        self.metric = metric
        self.init = init
        self.random_state = random_state
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "DictionaryLearning":
        """Learn from all rows of `X`, forgetting what was learned before.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        DictionaryLearning
            The estimator itself.

        Raises
        ------
        TypeError
            If solver and penalty do not fit each other.
        ValueError
            If a parameter is out of range, or `X` holds NaN or infinity.
        """
        rows = read_rows(self, X, reset=True, device=self.device, allow_nan=False)
        max_epochs = check_int("max_epochs", self.max_epochs, low=1)
        tol = check_float("tol", self.tol, low=0.0)
        generator = self._begin(rows)
        errors: list[float] = []
        for _ in range(max_epochs):
            before, fresh = self._sums.atoms_FD.clone(), len(rows)
            order = torch.randperm(len(rows), generator=generator).to(rows.device)
            record = _Pass(self._sums.atoms_FD)
            for ids in order.split(self._batch(rows)):
                self._learn(rows[ids], fresh, record)
            errors.append(record.total / len(rows))
            if (self._sums.atoms_FD - before).norm() <= tol * before.norm():
                break
            if len(errors) < max_epochs:
                record.replace_unused(self._sums)
        record.warn_of_missed(len(rows))
        return self._keep(errors)

    def partial_fit(self, X: Any, y: Any = None) -> "DictionaryLearning":
        """Go on learning with one pass over the rows of `X`, in their order.

        The first call starts as `fit` does, from its rows; `max_epochs` and `tol` have no part.
        Nothing fades out: rows of all calls count alike.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        DictionaryLearning
            The estimator itself.
        """
        known = "_sums" in vars(self)
        rows = read_rows(self, X, reset=not known, device=self.device, allow_nan=False)
        if not known:
            self._begin(rows)
        self._sums = self._sums.to(rows.device)
        rows = rows.to(self._sums.atoms_FD)
        record = _Pass(self._sums.atoms_FD)
        for part in rows.split(self._batch(rows)):
            self._learn(part, None, record)
        record.warn_of_missed(len(rows))
        return self._keep([*vars(self).get("error_", []), record.total / len(rows)])

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
        atoms = self._atoms(rows)
        root = self._root.to(rows) if self._root is not None else None
        if root is not None:
            rows, atoms = rows @ root, atoms @ root
        solver, penalty = self._method()
        return written(solver.solve(rows, atoms, penalty=penalty).codes, X, self.sparse_output)

    def _method(self) -> tuple[AbstractSolver, AbstractPenalty | None]:
        penalty = self.penalty
        takes_one = self.solver is None or self.solver.needs_penalty is not None
        if penalty is None and takes_one:
            penalty = L1(DEFAULT_ALPHA)
        return (default_solver(penalty) if self.solver is None else self.solver), penalty

    def _batch(self, rows: Tensor) -> int:
        if self.batch_size is None:
            return max(len(rows), 1)
        return check_int("batch_size", self.batch_size, low=1)

    def _begin(self, rows: Tensor) -> torch.Generator:
        """Set the atoms to begin with, and the square root of the metric."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        n_features = rows.shape[1]
        given = n_features if self.n_components is None else self.n_components
        n_atoms = check_int("n_components", given, low=1)
        if self.init is not None:
            shape, axes = (n_atoms, n_features), ("n_components", "n_features")
            atoms = read_matrix("init", self.init, shape, axes).to(rows)
        else:
            atoms = random_rows(rows, n_atoms, generator)
        if self.nonnegative:
            atoms = atoms.abs()
        self._root = None if self.metric is None else _square_root(self.metric, rows)
        if self._root is not None:
            if self.nonnegative:
                raise ValueError("`nonnegative` must be False with a `metric`; got True.")
            atoms = atoms @ self._root
        self._sums = AtomSums(UnitNorm().prox(atoms, 1.0), nonnegative=bool(self.nonnegative))
        return generator

    def _learn(self, rows: Tensor, memory: int | None, record: "_Pass") -> None:
        """Code a batch and update the atoms."""
        solver, penalty = self._method()
        if self._root is not None:
            rows = rows @ self._root.to(rows)
        result = solver.solve(rows, self._sums.atoms_FD, penalty=penalty, warn=False)
        codes_NF = result.codes.to_dense()
        record.add(rows, codes_NF, result)
        self._sums.add(codes_NF, rows, memory)
        self._sums.update_atoms()

    def _keep(self, errors: list[float]) -> "DictionaryLearning":
        self._sums = self._sums.to("cpu")  # so that a model from a GPU can be read without one
        atoms = self._sums.atoms_FD
        if self._root is not None:
            self._root = self._root.cpu()
            atoms = torch.linalg.solve(self._root, atoms, left=False)
        self.components_ = atoms.numpy().copy()
        self.error_, self.n_iter_ = np.array(errors), len(errors)
        return self


class _Pass:
    """What a pass over the rows leaves: its objective, unused atoms, and rows explained worst."""

    def __init__(self, atoms_FD: Tensor) -> None:
        self.total, self.missed = 0.0, 0
        self.used_F = torch.zeros_like(atoms_FD[:, 0], dtype=torch.bool)
        self.worst_MD, self.objective_M = atoms_FD[:0], atoms_FD[:0, 0]

    def add(self, rows_ND: Tensor, codes_NF: Tensor, result: SolverResult) -> None:
        """Count a batch."""
        self.total += float(result.objective.sum())
        self.missed += int((~result.converged).sum())
        self.used_F |= (codes_NF != 0).any(0)
        objective = torch.cat([self.objective_M, result.objective])
        best = objective.topk(min(len(objective), len(self.used_F)))
        self.worst_MD = torch.cat([self.worst_MD, rows_ND])[best.indices]
        self.objective_M = best.values

    def replace_unused(self, sums: AtomSums) -> None:
        """Set atoms that no row used to the rows that were explained worst."""
        unused = (~self.used_F).nonzero().flatten()[: len(self.worst_MD)]
        rows_MD = self.worst_MD[: len(unused)]
        rows_MD = rows_MD.clamp(min=0) if sums.nonnegative else rows_MD
        kept = rows_MD.abs().amax(1) > 0
        sums.replace(unused[kept], UnitNorm().prox(rows_MD[kept], 1.0))

    def warn_of_missed(self, n_rows: int) -> None:
        """Warn if the codes of the last pass were not found to the tolerance."""
        if self.missed:
            warnings.warn(
                f"The codes of {self.missed} of {n_rows} rows did not converge in the last pass. "
                "Give a `solver` with a higher `max_iter` or `tol`.",
                NotConvergedWarning,
                stacklevel=3,
            )


def _square_root(metric: Any, rows: Tensor) -> Tensor:
    """Return R, symmetric, with ``R R = metric``."""
    n_features = rows.shape[1]
    shape, axes = (n_features, n_features), ("n_features", "n_features")
    square = read_matrix("metric", metric, shape, axes).double()
    values, vectors = torch.linalg.eigh((square + square.T) / 2)
    if float(values[0]) <= 1e-12 * float(values[-1].abs()):
        raise ValueError(
            f"`metric` must be positive definite; its smallest eigenvalue is {float(values[0]):g}. "
            "Add a small multiple of the identity."
        )
    return ((vectors * values.sqrt()) @ vectors.T).to(rows)
