"""PredictiveSparseDecomposition: a dictionary, and a network that predicts its codes."""

import copy
from typing import Any, Literal

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sparsecode._checks import (
    check_choice,
    check_float,
    check_int,
)
from sparsecode.codes import SparseCodes
from sparsecode.decomposition.atoms import AtomSums, random_rows
from sparsecode.decomposition.encoders import ENCODERS, AbstractEncoder
from sparsecode.decomposition.rows import AddsUpAtoms, read_matrix, read_rows, written
from sparsecode.penalties import L1, UnitNorm
from sparsecode.solvers import FISTA
from sparsecode.solvers.base import CHUNK_ENTRIES, codes_of


class PredictiveSparseDecomposition(AddsUpAtoms):
    """Learn atoms together with a network that predicts the sparse codes of a row in one pass.

    Minimizes ``1/2 ||x - z D||^2 + alpha ||z||_1 + prediction_weight / 2 ||z - F(x)||^2`` over
    codes z, atoms D of norm 1 and the network F, in turn for each batch: codes take some steps of
    accelerated proximal gradient, beginning at the prediction; then the atoms are set to their best
    values, and F takes a step of Adam towards the codes. `transform` predicts.

    Parameters
    ----------
    n_components : int or None, default=None
        Atoms. May exceed the number of features; None takes as many as there are features.
    alpha : float >= 0, default=0.5
        Weight of the l1 norm.
    encoder : {"lista", "alista", "tanh"}, default="lista"
        The network: LISTA, whose matrices are learned; ALISTA, with two learned numbers a layer,
        for dictionaries of low coherence; or the gain times tanh of the first paper, whose codes
        are small instead of zero.
    n_layers : int, default=1
        Layers of (A)LISTA beyond the first.
    prediction_weight : float >= 0, default=0.0
        How much codes are pulled towards their prediction. 0 learns to predict the lasso.
    n_steps : int, default=20
        Steps on the codes of a batch.
    max_epochs : int, default=20
        Passes over the rows.
    batch_size : int, default=256
        Rows of a step.
    lr : float, default=0.003
        Learning rate of Adam at the start; falls to 0 linearly.
    dictionary : array or Tensor of shape (n_components, n_features), or None, default=None
        Atoms that stay as they are: only the network is learned. None learns atoms too.
    n_refine : int, default=0
        Steps of `FISTA` that `transform` takes on the lasso from the prediction.
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
        The dictionary.
    module_ : torch.nn.Module
        The network, from rows to codes.
    error_ : ndarray of shape (max_epochs,)
        Mean lasso objective of the codes of a row in each pass.
    prediction_error_ : ndarray of shape (max_epochs,)
        Mean squared distance of the prediction of a row from its code in each pass.
    n_iter_ : int
        Passes done.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `fit` saw a data frame with such names.

    References
    ----------
    Kavukcuoglu, Ranzato & LeCun (2008), "Fast inference in sparse coding algorithms with
    applications to object recognition", algorithm of section 2.2. arXiv:1010.3467. Differs from it
    in: atoms are set to their best values under running sums instead of by a gradient step. The
    networks: Gregor & LeCun (2010); Liu et al. (2019).

    Examples
    --------
    >>> from sparsecode.datasets import make_sparse_data
    >>> X, dictionary, _ = make_sparse_data(500, 16, 20, k=2)
    >>> model = PredictiveSparseDecomposition(20, alpha=0.1, max_epochs=5).fit(X)
    >>> model.transform(X).shape
    torch.Size([500, 20])
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 0.5,
        encoder: Literal["lista", "alista", "tanh"] = "lista",
        n_layers: int = 1,
        prediction_weight: float = 0.0,
        n_steps: int = 20,
        max_epochs: int = 20,
        batch_size: int = 256,
        lr: float = 0.003,
        dictionary: Any = None,
        n_refine: int = 0,
        random_state: Any = 0,
        sparse_output: bool = False,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.alpha = alpha
        self.encoder = encoder
        self.n_layers = n_layers
        self.prediction_weight = prediction_weight
        self.n_steps = n_steps
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.dictionary = dictionary
        self.n_refine = n_refine
        self.random_state = random_state
        self.sparse_output = sparse_output
        self.device = device

    def fit(self, X: Any, y: Any = None) -> "PredictiveSparseDecomposition":
        """Learn from all rows of `X`, forgetting what was learned before.

        Parameters
        ----------
        X : array, data frame or Tensor of shape (n_samples, n_features)
        y : None
            Ignored.

        Returns
        -------
        PredictiveSparseDecomposition
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, or `X` holds NaN or infinity.
        """
        rows = read_rows(self, X, reset=True, device=self.device, allow_nan=False)
        self._check_settings()
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        sums = AtomSums(self._start(rows, generator), nonnegative=False)
        module = ENCODERS[self.encoder](sums.atoms_FD, self.alpha, self.n_layers)
        optimizer = torch.optim.Adam(module.parameters(), lr=self.lr)
        n_batches = -(-len(rows) // self.batch_size) * self.max_epochs
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: max(0.0, 1 - step / n_batches)
        )
        errors = []
        for _ in range(self.max_epochs):
            order, total = torch.randperm(len(rows), generator=generator), rows.new_zeros(2)
            for ids in order.to(rows.device).split(self.batch_size):
                total += self._learn(rows[ids], len(rows), sums, module, optimizer)
                schedule.step()
            errors.append((total / len(rows)).cpu().numpy())
        self.components_ = sums.atoms_FD.cpu().numpy().copy()
        self.module_ = module.requires_grad_(False).cpu()
        self.error_, self.prediction_error_ = np.array(errors).T
        self.n_iter_ = self.max_epochs
        return self

    def transform(self, X: Any) -> Any:
        """Predict the codes of `X`, and refine them if `n_refine` says so.

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
        module = self.module_
        kept = next(module.parameters())
        if kept.device != rows.device or kept.dtype != rows.dtype:
            module = copy.deepcopy(module).to(rows)
        atoms = self._atoms(rows)
        with torch.no_grad():
            parts = [
                self._predicted(part, module, atoms)
                for part in rows.split(max(1, CHUNK_ENTRIES // len(atoms)))
            ]
        return written(SparseCodes.cat(parts), X, self.sparse_output)

    def _predicted(self, rows: Tensor, module: AbstractEncoder, atoms: Tensor) -> SparseCodes:
        """Return the codes of some rows, dense only among themselves."""
        codes_NF = module(rows)
        if not self.n_refine:
            return codes_of(codes_NF)
        solver = FISTA(max_iter=check_int("n_refine", self.n_refine, low=0))
        return solver.solve(rows, atoms, penalty=L1(self.alpha), start=codes_NF, warn=False).codes

    def _check_settings(self) -> None:
        check_float("alpha", self.alpha, low=0.0)
        check_choice("encoder", self.encoder, tuple(ENCODERS))
        check_float("prediction_weight", self.prediction_weight, low=0.0)
        check_float("lr", self.lr, low=0.0, open_low=True)
        for name, low in (("n_layers", 0), ("n_steps", 1), ("max_epochs", 1), ("batch_size", 1)):
            check_int(name, getattr(self, name), low=low)
        check_int("n_refine", self.n_refine, low=0)

    def _start(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the given atoms, or random rows of unit norm, filled up with random directions."""
        if self.dictionary is not None:
            shape, axes = (self.n_components, rows.shape[1]), ("n_components", "n_features")
            return read_matrix("dictionary", self.dictionary, shape, axes).to(rows).clone()
        n_atoms = rows.shape[1] if self.n_components is None else self.n_components
        n_atoms = check_int("n_components", n_atoms, low=1)
        return UnitNorm().prox(random_rows(rows, n_atoms, generator), 1.0)

    def _learn(
        self,
        rows: Tensor,
        n_rows: int,
        sums: AtomSums,
        module: AbstractEncoder,
        optimizer: torch.optim.Optimizer,
    ) -> Tensor:
        """Take the steps of a batch; return its objective and prediction error, summed."""
        predicted = module(rows)
        codes = self._codes(rows, sums.atoms_FD, predicted.detach())
        distance = (predicted - codes).square().sum()
        optimizer.zero_grad()
        (distance / len(rows)).backward()
        optimizer.step()
        error = (rows - codes @ sums.atoms_FD).square().sum() / 2
        if self.dictionary is None:
            sums.add(codes, rows, n_rows)
            sums.update_atoms()
            module.follow(sums.atoms_FD)
        return torch.stack([error + self.alpha * codes.abs().sum(), distance.detach()])

    def _codes(self, rows: Tensor, atoms: Tensor, predicted: Tensor) -> Tensor:
        """Take steps of accelerated proximal gradient on the codes, from their prediction."""
        weight, penalty = self.prediction_weight, L1(self.alpha)
        norm = float(torch.linalg.matrix_norm(atoms, 2)) ** 2 + weight
        step = 1 / norm if norm > 0 else 1.0
        gram, target = atoms @ atoms.T, rows @ atoms.T
        codes = ahead = predicted
        count = 1.0
        for _ in range(self.n_steps):
            gradient = ahead @ gram - target + weight * (ahead - predicted)
            new = penalty.prox(ahead - step * gradient, step)
            following = (1 + (1 + 4 * count * count) ** 0.5) / 2
            ahead = new + ((count - 1) / following) * (new - codes)
            codes, count = new, following
        return codes
