"""MaskedDictionaryLearning: decode from observed coordinates, score on hidden ones."""

import math
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sparsecode._checks import check_float, check_int
from sparsecode.datafits import MaskedQuadratic
from sparsecode.decomposition.rows import AddsUpAtoms, read_matrix, read_rows, written
from sparsecode.penalties import UnitNorm
from sparsecode.solvers import OMP

MIXED_ROWS = 1000  # that the atoms to begin with are made of


class MaskedDictionaryLearning(AddsUpAtoms):
    """Learn a dictionary that predicts hidden coordinates from codes of observed ones.

    For each batch a random mask hides some coordinates. Codes are found by OMP on the observed
    part, and the atoms take a step of Adam on the squared error of the hidden part, codes held
    fixed; then they are scaled to unit norm. A dictionary with more atoms than the data was made
    from cannot gain by fitting noise, which the plain reconstruction error rewards.

    Entries that are NaN are missing: they are never observed nor scored, and `inverse_transform`
    of the codes fills them in.

    Parameters
    ----------
    n_components : int or None, default=None
        Atoms. May exceed the number of features; None takes as many as there are features.
    n_nonzero : int, default=5
        Atoms that a row may use.
    observed_share : float in (0, 1], default=0.9
        Share of the coordinates that codes are found from in training. 1 hides nothing and scores
        the reconstruction of all entries: plain dictionary learning.
    max_epochs : int, default=500
        Passes over the rows.
    batch_size : int, default=200
        Rows of a step, which share a mask.
    lr : float, default=0.001
        Learning rate of Adam.
    init : array of shape (n_components, n_features) or None, default=None
        Atoms to begin with; None takes random mixtures of rows. Do not give rows of `X` themselves:
        an atom that is a row predicts the hidden entries of that row, and so its noise.
    random_state : int, RandomState instance or None, default=0
        Of the start, the order of rows and the masks.
    sparse_output : bool, default=False
        Whether `transform` returns a `scipy.sparse.csr_matrix`.
    device : str, default="auto"
        Where to compute; "auto" takes the device of a tensor, and for anything else the first GPU
        if there is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The dictionary, atoms of unit norm.
    error_ : ndarray of shape (max_epochs,)
        Mean squared error per scored entry in each epoch.
    n_iter_ : int
        Epochs done.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    sparsecode.metrics.recovery_error : How far learned atoms are from true ones.

    References
    ----------
    Chidambaram, Wu, Cheng & Ge (2023), "Hiding data helps: on the benefits of masking for sparse
    coding", algorithm 1. arXiv:2302.12715. As there, atoms cut to observed coordinates are not
    scaled again before OMP.

    Examples
    --------
    >>> from sparsecode.datasets import make_sparse_data
    >>> X, dictionary, _ = make_sparse_data(200, 16, 20, k=2)
    >>> X[0, 3] = float("nan")
    >>> model = MaskedDictionaryLearning(20, n_nonzero=2, init=dictionary, max_epochs=5).fit(X)
    >>> bool(model.inverse_transform(model.transform(X)).isfinite().all())
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        n_nonzero: int = 5,
        observed_share: float = 0.9,
        max_epochs: int = 500,
        batch_size: int = 200,
        lr: float = 0.001,
        init: Any = None,
        random_state: Any = 0,
        sparse_output: bool = False,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.n_nonzero = n_nonzero
        self.observed_share = observed_share
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.init = init
        self.random_state = random_state
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "MaskedDictionaryLearning":
        """Learn from all rows of `X`, forgetting what was learned before.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
            NaN marks missing entries.
        y : None
            Ignored.

        Returns
        -------
        MaskedDictionaryLearning
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, or `X` has no rows or infinite entries.
        """
        rows = read_rows(self, X, reset=True, device=self.device, allow_nan=True)
        solver = OMP(check_int("n_nonzero", self.n_nonzero, low=1))
        max_epochs = check_int("max_epochs", self.max_epochs, low=1)
        batch_size = check_int("batch_size", self.batch_size, low=1)
        n_observed = self._n_observed(rows.shape[1])
        lr = check_float("lr", self.lr, low=0.0, open_low=True)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        atoms = self._start(rows, generator).requires_grad_()
        optimizer = torch.optim.Adam([atoms], lr=lr)
        errors = []
        for _ in range(max_epochs):
            order = torch.randperm(len(rows), generator=generator).to(rows.device)
            total, count = 0.0, 0
            for ids in order.split(batch_size):
                seen = torch.randperm(rows.shape[1], generator=generator)[:n_observed]
                error, n_scored = _step(atoms, optimizer, rows[ids], seen.to(rows.device), solver)
                total, count = total + error, count + n_scored
            errors.append(total / max(count, 1))
        self.components_ = atoms.detach().cpu().numpy().copy()
        self.error_, self.n_iter_ = np.array(errors), max_epochs
        return self

    def transform(self, X: Any) -> Any:
        """Return the codes of `X`, found from all entries that are not missing.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
            NaN marks missing entries.

        Returns
        -------
        ndarray, csr_matrix or Tensor of shape (n_samples, n_components)
            With `sparse_output` a CSR matrix; else a tensor for a tensor and an array for
            anything else.
        """
        check_is_fitted(self)
        rows = read_rows(self, X, reset=False, device=self.device, allow_nan=True)
        known = ~rows.isnan()
        datafit = None if bool(known.all()) else MaskedQuadratic(known)
        codes = OMP(self.n_nonzero).solve(rows, self._atoms(rows), datafit=datafit).codes
        return written(codes, X, self.sparse_output)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _n_observed(self, n_features: int) -> int:
        """Return the number of observed coordinates; a mask hides at least one, but not all."""
        share = check_float("observed_share", self.observed_share, low=0.0, high=1.0, open_low=True)
        if share == 1 or n_features == 1:
            return n_features
        return min(max(round(share * n_features), 1), n_features - 1)

    def _start(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return atoms of unit norm to begin with."""
        n_features = rows.shape[1]
        given = n_features if self.n_components is None else self.n_components
        n_atoms = check_int("n_components", given, low=1)
        if self.init is not None:
            shape, axes = (n_atoms, n_features), ("n_components", "n_features")
            return UnitNorm().prox(read_matrix("init", self.init, shape, axes).to(rows), 1.0)
        mixed = rows.nan_to_num(nan=0.0)
        mixed = mixed[torch.randperm(len(rows), generator=generator)[:MIXED_ROWS].to(rows.device)]
        shape = (n_atoms, len(mixed))
        weights = torch.randn(shape, generator=generator, dtype=torch.float64).to(rows)
        atoms = weights @ mixed
        return UnitNorm().prox(atoms, 1.0)


def _step(
    atoms: Tensor, optimizer: torch.optim.Optimizer, x_ND: Tensor, seen: Tensor, solver: OMP
) -> tuple[float, int]:
    """Take one step; return the squared error over scored entries, and how many these are."""
    known_ND = ~x_ND.isnan()
    datafit = MaskedQuadratic(known_ND[:, seen]) if not bool(known_ND.all()) else None
    codes = solver.solve(x_ND[:, seen], atoms.detach()[:, seen], datafit=datafit).codes.to_dense()
    scored = torch.ones_like(known_ND[0])
    if len(seen) < len(scored):
        scored[seen] = False
    scored = scored.nonzero().flatten()
    known_NS = known_ND[:, scored]
    error = (codes @ atoms[:, scored] - x_ND[:, scored]).where(known_NS, 0.0).square().sum()
    n_scored = int(known_NS.sum())
    if n_scored == 0:
        return 0.0, 0
    optimizer.zero_grad()
    (error / n_scored).backward()
    optimizer.step()
    with torch.no_grad():
        atoms.copy_(UnitNorm().prox(atoms, 1.0))
    total = float(error.detach())
    if not math.isfinite(total):
        raise FloatingPointError("The error must be finite; it is not. Rescale the data.")
    return total, n_scored
