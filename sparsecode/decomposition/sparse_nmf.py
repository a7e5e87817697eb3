"""RobustSparseNMF: non-negative parts, sparse codes, and rows or features that may be wrong."""

import warnings
from typing import Any, Literal

import numpy as np
import scipy.sparse
import torch
from sklearn.neighbors import kneighbors_graph
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sparsecode._checks import as_tensor, check_choice, check_float, check_int
from sparsecode.datafits import WeightedQuadratic
from sparsecode.decomposition.rows import AddsUpAtoms, read_rows, written
from sparsecode.penalties import UnitNorm, WeightedL1
from sparsecode.solvers import FISTA, NotConvergedWarning

WEIGHTS = ("l21", "correntropy")
AXES = ("samples", "features")
SMALLEST = 0.1  # error, as a share of the median, below which the l21 weight grows no more
PATIENCE = 20  # iterations between two looks at what they gained


class RobustSparseNMF(AddsUpAtoms):
    """Write rows as sparse, non-negative sums of non-negative parts of norm 1.

    Minimizes ``1/2 sum_nd V_nd (x_nd - (Z H)_nd)^2 + alpha ||Z||_1 + graph_weight / 2 tr(Z^T L Z)``
    by multiplicative updates. V is 0 at missing entries (NaN). With `weights` it is also found
    anew in each iteration, so that samples, or features, that cannot be explained count less:
    "l21" minimizes the sum of their errors' norms instead of squares, "correntropy" a bounded loss
    that all but ignores outliers. L is the Laplacian of a graph of samples that should have alike
    codes.

    Parameters
    ----------
    n_components : int or None, default=None
        Parts. None takes as many as there are features.
    alpha : float >= 0, default=0.0
        Weight of the l1 norm of the codes.
    weights : {None, "l21", "correntropy"}, default=None
        The loss.
    weight_axis : {"samples", "features"}, default="samples"
        What gets a weight: rows, or columns such as the bands of a spectrum.
    graph : None, int or sparse matrix of shape (n_samples, n_samples), default=None
        Non-negative, symmetric affinities of the samples that `fit` sees, or a number of nearest
        neighbors to join; None takes no graph.
    graph_weight : float >= 0, default=0.1
        Weight of the graph, if there is one.
    max_iter : int, default=1000
        Most iterations.
    tol : float, default=1e-4
        Iterations end when twenty of them lower the objective by at most this share of that of
        the first; or, if there are `weights`, change the parts by at most this share
        of their squared norm.
    random_state : int, RandomState instance or None, default=0
        Of the start.
    sparse_output : bool, default=False
        Whether `transform` returns a `scipy.sparse.csr_matrix`.
    device : str, default="auto"
        Where to compute; "auto" takes the device of a tensor, and for anything else the first GPU
        if there is one.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The parts, of norm 1.
    codes_ : ndarray of shape (n_samples, n_components)
        Codes of the rows of `fit`. `transform` finds codes without the graph.
    weights_ : ndarray of shape (n_samples,) or (n_features,)
        What counts how much, along `weight_axis`; ones without `weights`.
    error_ : ndarray
        Objective at each iteration, with the weights of that iteration.
    n_iter_ : int
        Iterations done.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    sklearn.decomposition.NMF : Neither missing entries nor weights nor a graph.

    References
    ----------
    Eggert & Koerner (2004), "Sparse coding and NMF", for updates under parts of norm 1. Cai et al.
    (2011), "Graph regularized nonnegative matrix factorization for data representation". Kong,
    Ding & Huang (2011), "Robust nonnegative matrix factorization using L21-norm". Du, Li & Shen
    (2012), "Robust nonnegative matrix factorization via half-quadratic minimization".

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((100, 3)) @ rng.random((3, 12))
    >>> X[0, 5] = np.nan
    >>> model = RobustSparseNMF(3).fit(X)
    >>> filled = model.inverse_transform(model.transform(X))
    >>> bool(np.nanmean(abs(filled - X)) < 0.05)
    True
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 0.0,
        weights: Literal["l21", "correntropy"] | None = None,
        weight_axis: Literal["samples", "features"] = "samples",
        graph: Any = None,
        graph_weight: float = 0.1,
        max_iter: int = 1000,
        tol: float = 1e-4,
        random_state: Any = 0,
        sparse_output: bool = False,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.weights = weights
        self.weight_axis = weight_axis
        self.graph = graph
        self.graph_weight = graph_weight
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "RobustSparseNMF":
        """Learn from all rows of `X`, forgetting what was learned before.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
            No negative entry; NaN marks missing ones.
        y : None
            Ignored.

        Returns
        -------
        RobustSparseNMF
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, or `X` has negative or infinite entries.
        """
        rows = self._read(X, reset=True)
        known = (~rows.isnan()).to(rows)
        empty = (known.sum(0) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                "Each feature must be observed in at least one row; got none of feature "
                f"{empty[0]} ({len(empty)} features). Drop them first."
            )
        rows = rows.nan_to_num(nan=0.0)
        axis = AXES.index(check_choice("weight_axis", self.weight_axis, AXES))
        kind = self.weights
        if kind is not None:
            check_choice("weights", kind, WEIGHTS)
        max_iter = check_int("max_iter", self.max_iter, low=1)
        tol = check_float("tol", self.tol, low=0.0)
        updates = _Updates(rows, check_float("alpha", self.alpha, low=0.0), self._affinity(rows))
        codes, parts = self._start(rows, known)
        weights, errors, before = torch.ones_like(known.sum(1 - axis)), [], parts
        for done in range(1, max_iter + 1):
            if kind is not None:
                weights = _weights(rows, known, codes @ parts, kind, axis)
            entries = known * weights.unsqueeze(1 - axis)
            codes, parts = updates.step(codes, parts, entries)
            errors.append(updates.objective(codes, parts, entries))
            if done % PATIENCE:
                continue
            # With weights that change, the objective of one iteration is not that of another.
            gained = errors[-PATIENCE] - errors[-1] if kind is None else _square(parts - before)
            if gained <= tol * (errors[0] if kind is None else _square(parts)):
                break
            before = parts
        else:
            warnings.warn(
                f"`RobustSparseNMF` did not converge in {max_iter} iterations. Raise `max_iter` or "
                "`tol`.",
                NotConvergedWarning,
                stacklevel=2,
            )
        self.components_, self.codes_ = parts.cpu().numpy().copy(), codes.cpu().numpy().copy()
        self.weights_ = weights.cpu().numpy().copy()
        self.error_, self.n_iter_ = np.array(errors), len(errors)
        return self

    def transform(self, X: Any) -> Any:
        """Return the non-negative codes of `X` that are best for the parts, missing entries aside.

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
        rows = self._read(X, reset=False)
        known = (~rows.isnan()).to(rows)
        if self.weight_axis == "features":
            known = known * as_tensor(self.weights_).to(rows)
        alpha = check_float("alpha", self.alpha, low=0.0)
        penalty = WeightedL1(torch.tensor(alpha, dtype=torch.float64), nonnegative=True)
        parts = self._atoms(rows)
        solver, datafit = FISTA(tol=1e-4), WeightedQuadratic(known)
        filled = rows.nan_to_num(nan=0.0)
        found = solver.solve(filled, parts, penalty=penalty, datafit=datafit)
        return written(found.codes, X, self.sparse_output)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.positive_only = True
        return tags

    def _read(self, X: Any, *, reset: bool) -> Tensor:
        rows = read_rows(self, X, reset=reset, device=self.device, allow_nan=True)
        lowest = float(rows.nan_to_num(nan=0.0).min())
        if lowest < 0:
            raise ValueError(
                "Negative values in data passed to `RobustSparseNMF`: entries must be at least 0; "
                f"got {lowest:g}."
            )
        return rows

    def _start(self, rows: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return random codes and parts of the size of the data."""
        n_parts = rows.shape[1] if self.n_components is None else self.n_components
        n_parts = check_int("n_components", n_parts, low=1)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            torch.rand(shape, generator=generator, dtype=torch.float64).to(rows) + 0.1
            for shape in ((len(rows), n_parts), (n_parts, rows.shape[1]))
        ]
        codes, parts = drawn[0], UnitNorm().prox(drawn[1], 1.0)
        mean = float((rows.sum() / known.sum().clamp(min=1)).cpu())
        return codes * (mean / float((codes @ parts).mean())), parts

    def _affinity(self, rows: Tensor) -> Tensor | None:
        """Return the graph as a sparse tensor, times its weight."""
        weight = check_float("graph_weight", self.graph_weight, low=0.0)
        if self.graph is None:
            return None
        if isinstance(self.graph, (int, np.integer)):
            filled = rows.nan_to_num(nan=0.0).cpu().numpy()
            n_neighbors = check_int("graph", self.graph, low=1, high=len(rows) - 1)
            joined = kneighbors_graph(filled, n_neighbors)
            affinity = scipy.sparse.coo_array(joined.maximum(joined.T))
        else:
            affinity = scipy.sparse.coo_array(self.graph)
        _check_affinity(affinity, len(rows))
        places = torch.from_numpy(np.stack([affinity.row, affinity.col]).astype(np.int64))
        values = weight * torch.from_numpy(affinity.data.astype(np.float64)).to(rows)
        shape = (len(rows), len(rows))
        return torch.sparse_coo_tensor(places.to(rows.device), values, shape, check_invariants=True)


def _check_affinity(affinity: Any, n_rows: int) -> None:
    """Refuse a graph that is not a symmetric matrix of finite, non-negative affinities."""
    wanted = (
        "`graph` must be None, an int, or finite, non-negative, symmetric affinities of shape "
        f"(n_samples, n_samples) = {(n_rows, n_rows)}"
    )
    if affinity.shape != (n_rows, n_rows):
        raise ValueError(f"{wanted}; got shape {affinity.shape}.")
    if affinity.nnz == 0:
        return
    if not np.isfinite(affinity.data).all() or affinity.data.min() < 0:
        raise ValueError(f"{wanted}; got an affinity of {affinity.data.min():g}.")
    apart = float(abs(affinity - affinity.T).max())
    if apart > 1e-6 * affinity.data.max():
        raise ValueError(
            f"{wanted}; got some that differ by {apart:g} from their mirror images. "
            "Pass (graph + graph.T) / 2."
        )


def _square(parts: Tensor) -> float:
    return float(parts.square().sum())


class _Updates:
    """Multiplicative updates of codes and parts for fixed weights of the entries."""

    def __init__(self, rows_ND: Tensor, alpha: float, affinity_NN: Tensor | None) -> None:
        self.rows_ND, self.alpha, self.affinity_NN = rows_ND, alpha, affinity_NN
        self.degree_N1 = rows_ND.new_zeros(len(rows_ND), 1)
        if affinity_NN is not None:
            self.degree_N1 = (affinity_NN @ torch.ones_like(self.degree_N1)).reshape(-1, 1)

    def step(self, codes: Tensor, parts: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes, then parts of norm 1, that lower the objective."""
        tiny = torch.finfo(codes.dtype).tiny ** 0.5
        wanted, fitted = entries * self.rows_ND, entries * (codes @ parts)
        up, down = wanted @ parts.T, fitted @ parts.T + self.alpha
        if self.affinity_NN is not None:
            up, down = up + self.affinity_NN @ codes, down + self.degree_N1 * codes
        codes = codes * up / down.clamp(min=tiny)
        # With the norm of a part fixed, its gradient has a share along the part itself.
        up, down = codes.T @ wanted, codes.T @ (entries * (codes @ parts))
        along_up = (up * parts).sum(1, keepdim=True)
        along_down = (down * parts).sum(1, keepdim=True)
        new = parts * (up + along_down * parts) / (down + along_up * parts).clamp(min=tiny)
        norms = new.norm(dim=1, keepdim=True)
        return codes, (new / norms.where(norms > 0, 1.0)).where(norms > 0, parts)

    def objective(self, codes: Tensor, parts: Tensor, entries: Tensor) -> float:
        """Return what the updates lower."""
        error = (entries * (self.rows_ND - codes @ parts).square()).sum() / 2
        total = error + self.alpha * codes.sum()
        if self.affinity_NN is not None:
            apart = self.degree_N1 * codes - self.affinity_NN @ codes
            total = total + (codes * apart).sum() / 2
        return float(total)


def _weights(rows: Tensor, known: Tensor, fitted: Tensor, kind: str, axis: int) -> Tensor:
    """Return the weight of each sample (`axis` 0) or feature (1)."""
    count = known.sum(1 - axis).clamp(min=1)
    error = (known * (rows - fitted).square()).sum(1 - axis) / count
    info = torch.finfo(rows.dtype)
    # What is explained exactly, such as zeros, says nothing about the scale of errors; and a weight
    # of exactly 0 would never grow again.
    inexact = error > info.eps * error.max()
    middle = (error[inexact] if bool(inexact.any()) else error).median().clamp(min=info.tiny)
    if kind == "correntropy":
        return torch.exp(-error / (2 * middle)).clamp(min=info.eps)
    return (middle / error.clamp(min=SMALLEST**2 * float(middle))).sqrt()
