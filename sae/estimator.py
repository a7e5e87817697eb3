"""SparseAutoencoder: any architecture as a scikit-learn transformer."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor

from sae.autoencoders import AUTOENCODERS, AbstractAutoencoder, ReconstructsProducts
from sae.evaluation.reconstruction import measure
from sae.matrices import (
    checked_size,
    checked_tensor,
    decoded_parts,
    encoded_parts,
    fill,
    predicted_parts,
)
from sae.trainer import AutoencoderTask, choose_device
from sparsecode._checks import check_float, check_int, near_matches
from sparsecode.training import (
    RowSource,
    TrainConfig,
    TrainState,
    default_learning_rate,
    one_pass,
    train,
)
from sparsecode.training.array_rows import ArrayRows, PairedRows
from sparsecode.training.checkpoint import Checkpoint

SET_BY_ESTIMATOR = ("n_features", "n_targets", "n_latents", "k", "seed")
ACCEPTED: dict[str, Any] = {"accept_sparse": "csr", "dtype": [np.float64, np.float32]}
SCORED_ROWS = 4096  # decoded at a time


def _predicts(estimator: Any) -> bool:
    """Return whether there is a target beside the rows."""
    module = vars(estimator).get("module_")
    if module is None:
        return estimator.architecture == "transcoder"
    return module.n_targets is not None


class SparseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn a dictionary and a linear encoder whose codes keep k latents of each row.

    A scikit-learn transformer around any architecture of `sae.AUTOENCODERS`, trained by the loop
    that `sae.Trainer` runs. Weights and computations are in float32; results have the dtype of the
    input if that is float32 or float64. NumPy arrays, SciPy sparse matrices, data frames and
    tensors go in; a tensor gives a tensor on its own device.

    Parameters
    ----------
    n_components : int, default=1024
        Latents F: atoms of the dictionary. May exceed the number of features and of samples.
    k : int, default=32
        Latents kept in each row, at most `n_components`. A single component leaves nothing to
        select: `k` has no effect then, nor for an architecture without a `k`.
    architecture : str, default="topk"
        A key of `sae.AUTOENCODERS`. A "transcoder" predicts `y`, and has `predict`.
    architecture_options : dict or None, default=None
        Further arguments of that architecture, such as ``{"aux_coefficient": 0.0}``.
    max_steps : int, default=1000
        Optimizer steps of `fit`, and the length of all schedules.
    batch_size : int, default=1024
        Rows of a step; with fewer samples, each step takes all of them.
    lr : float or None, default=None
        Highest learning rate; None takes `sparsecode.training.default_learning_rate`.
    normalize : {"none", "mean_square", "per_feature"}, default="none"
        What training multiplies the features by, one factor for all or one for each; `module_`
        is for the features as they are. See `TrainConfig`.
    random_state : int, RandomState instance or None, default=0
        Of the initial dictionary and the order of the rows. Global random states of torch
        are neither read nor changed.
    sparse_output : bool, default=False
        Whether `transform` returns a `scipy.sparse.csr_matrix` (for tensors as well), in
        memory proportional to ``n_samples * k``; no dense (n_samples, n_components) array is made.
    device : str, default="auto"
        Where to compute: "cpu", "cuda" or another torch device; "auto" takes the first
        GPU if there is one.
    verbose : bool, default=False
        Whether `fit` shows a progress bar.

    Attributes
    ----------
    module_ : AbstractAutoencoder
        The autoencoder, with ``W_enc``, ``b_enc``, ``W_dec`` and ``b_dec``; `sae.save` writes it.
    components_ : ndarray of shape (n_components, n_features)
        The dictionary, one atom a row: a copy of ``module_.W_dec``, as wide as `y` for transcoders.
    n_iter_ : int
        Optimizer steps taken.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    sae.Trainer : Training on activations that do not fit in memory, with checkpoints and metrics.
    sklearn.decomposition.MiniBatchDictionaryLearning : Codes by optimization, not by an encoder.

    Notes
    -----
    `fit` starts anew; `partial_fit` continues from whatever was learned before, by either of
    them. A fitted estimator keeps the moments of the optimizer for that, twice the size of the
    weights, and they are pickled with it.

    References
    ----------
    Gao et al. (2024), "Scaling and evaluating sparse autoencoders". arXiv:2406.04093.

    Examples
    --------
    >>> from sae import SparseAutoencoder
    >>> from sparsecode.datasets import make_sparse_data
    >>> X, dictionary, _ = make_sparse_data(1000, 16, 32, k=3)
    >>> model = SparseAutoencoder(n_components=32, k=3, max_steps=300, sparse_output=True)
    >>> codes = model.fit_transform(X.numpy())
    >>> codes.shape, int(codes.getnnz(axis=1).max())
    ((1000, 32), 3)
    >>> model.inverse_transform(codes).shape
    (1000, 16)
    >>> model.score(X) > 0.5
    True
    """

    module_: AbstractAutoencoder
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        n_components: int = 1024,
        *,
        k: int = 32,
        architecture: str = "topk",
        architecture_options: dict[str, Any] | None = None,
        max_steps: int = 1000,
        batch_size: int = 1024,
        lr: float | None = None,
        normalize: Literal["none", "mean_square", "per_feature"] = "none",
        random_state: Any = 0,
        sparse_output: bool = False,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.k = k
        self.architecture = architecture
        self.architecture_options = architecture_options
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.normalize = normalize
        self.random_state = random_state
        self.sparse_output = sparse_output
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "SparseAutoencoder":
        """Learn from all rows of `X`, forgetting what was learned before.

        Parameters
        ----------
        X : array, sparse matrix, data frame or Tensor of shape (n_samples, n_features)
        y : array or Tensor of shape (n_samples,) or (n_samples, n_targets), or None
            What a transcoder predicts; ignored for other architectures.

        Returns
        -------
        SparseAutoencoder
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, or `X` has no rows, NaN, infinite or far too large
            entries.
        """
        source = self._rows(X, y, None)
        config, module = self._new_run(source)
        task = AutoencoderTask(module, config, None)
        state, _ = train(task, source, config)
        return self._keep(task, state, config)

    def partial_fit(self, X: Any, y: Any = None) -> "SparseAutoencoder":
        """Go on learning with one pass over the rows of `X`, in their order.

        Takes a step for every `batch_size` rows, in parts of nearly equal size. The first call
        starts as `fit` does, from its rows. The schedules run over `max_steps` steps, so many calls
        end as `fit` does; steps beyond, also those after a `fit`, have a tenth of the highest
        learning rate. Of the parameters that are changed between calls, only `batch_size`,
        `device` and `sparse_output` act before the next `fit`.

        Parameters
        ----------
        X : array, sparse matrix, data frame or Tensor of shape (n_samples, n_features)
        y : array or Tensor of shape (n_samples,) or (n_samples, n_targets), or None
            What a transcoder predicts; ignored for other architectures.

        Returns
        -------
        SparseAutoencoder
            The estimator itself.

        Raises
        ------
        ValueError
            As in `fit`, and if the number of features is not that of the first call.
        """
        start: Checkpoint | None = vars(self).get("_checkpoint")
        source = self._rows(X, y, None if start is None else self.module_)
        batch_size = check_int("batch_size", self.batch_size, low=1)
        if start is None:
            config, module = self._new_run(source)
        else:
            config, module = self._config, self._placed_module().train()
        task = AutoencoderTask(module, config, None)
        taken = vars(self).get("n_iter_", 0)
        options = {"batch_size": batch_size, "start": start, "n_taken": taken}
        state = one_pass(task, source, config, **options)
        return self._keep(task, state, config)

    def transform(self, X: Any) -> Any:
        """Return the codes of `X`.

        Parameters
        ----------
        X : array, sparse matrix, data frame or Tensor of shape (n_samples, n_features)

        Returns
        -------
        ndarray, csr_matrix or Tensor of shape (n_samples, n_components)
            With `sparse_output` a CSR matrix; else a tensor for a tensor and an array for
            anything else.
        """
        check_is_fitted(self)
        checked = self._validated(X, reset=False)
        module, source = self._placed_module(), ArrayRows(checked)
        if self.sparse_output:
            parts = [codes.to_scipy() for codes in encoded_parts(module, source)]
            return scipy.sparse.vstack(parts, format="csr")
        out = source.rows(0, 1).new_empty(source.n_rows, module.n_latents)
        fill(out, (codes.to_dense() for codes in encoded_parts(module, source)))
        return out if isinstance(X, Tensor) else out.numpy()

    def inverse_transform(self, X: Any) -> Any:
        """Return the reconstruction (of `y` by a transcoder), ``X @ components_ + module_.b_dec``.

        Parameters
        ----------
        X : array, sparse matrix, data frame or Tensor of shape (n_samples, n_components)
            Codes, such as `transform` returns.

        Returns
        -------
        ndarray or Tensor of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        if isinstance(X, Tensor):
            checked = checked_tensor(X)
        else:
            checked = check_array(X, input_name="X", **ACCEPTED)
        module = self._placed_module()
        if isinstance(module, ReconstructsProducts):
            raise TypeError(
                f"`inverse_transform` is unsupported for {self.architecture!r}, which reconstructs "
                "products of features. Use module_.decode, which gives matrices."
            )
        if getattr(module, "skip_connection", False):
            raise TypeError(
                "`inverse_transform` is unsupported with a skip connection, which needs the rows "
                "beside their codes. Use predict."
            )
        n_rows, width = checked.shape
        if width != module.n_latents:
            raise ValueError(
                "`X` must hold codes of shape (n_samples, n_components) = "
                f"(any, {module.n_latents}); got {(n_rows, width)}."
            )
        out = ArrayRows(checked).rows(0, 1).new_empty(n_rows, module.b_dec.shape[0])
        fill(out, decoded_parts(module, checked))
        return out if isinstance(X, Tensor) else out.numpy()

    @available_if(_predicts)
    def predict(self, X: Any) -> Any:
        """Return what a transcoder makes of `X`; other architectures have no such method.

        Parameters
        ----------
        X : array, sparse matrix, data frame or Tensor of shape (n_samples, n_features)

        Returns
        -------
        ndarray or Tensor of shape (n_samples, n_targets)
            Also for a `y` that had one dimension.
        """
        check_is_fitted(self)
        module, source = self._placed_module(), ArrayRows(self._validated(X, reset=False))
        out = source.rows(0, 1).new_empty(source.n_rows, module.b_dec.shape[0])
        fill(out, predicted_parts(module, source))
        return out if isinstance(X, Tensor) else out.numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Return the explained variance of `X`, or of a transcoder's `y`; 1 is perfect.

        Parameters
        ----------
        X : array, sparse matrix, data frame or Tensor of shape (n_samples, n_features)
        y : array or Tensor of shape (n_samples,) or (n_samples, n_targets), or None
            What a transcoder predicts; ignored for other architectures.

        Returns
        -------
        float
            `sparsecode.metrics.explained_variance`: minus infinity for rows that are all equal and
            not reconstructed exactly.
        """
        check_is_fitted(self)
        source = self._rows(X, y, self.module_)
        found = measure(self._placed_module(), source, SCORED_ROWS, None, False)
        return found["explained_variance"]

    @property
    def components_(self) -> np.ndarray:
        """The dictionary, one atom a row: a copy of ``module_.W_dec``."""
        if isinstance(self.module_, ReconstructsProducts):
            raise AttributeError(
                "`components_` must be rows that are added up to a reconstruction, which "
                f"{self.architecture!r} has not. Use module_.left and module_.right."
            )
        return np.array(self.module_.W_dec.detach().cpu().numpy(), order="C")

    @property
    def _n_features_out(self) -> int:
        return self.module_.n_latents

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # What was learned on a GPU can be unpickled where there is none.
        plain: Any = super().__getstate__()
        state: dict[str, Any] = dict(plain)
        if "_checkpoint" in state and self.module_.b_dec.is_cuda:
            tensors = {name: tensor.cpu() for name, tensor in self._checkpoint.tensors.items()}
            state["module_"] = copy.deepcopy(self.module_).cpu()
            state["_checkpoint"] = replace(self._checkpoint, tensors=tensors)
        return state

    def _validated(self, X: Any, *, reset: bool) -> Any:
        """Return `X` as a floating array, CSR matrix or detached tensor of finite numbers."""
        if isinstance(X, Tensor):
            tensor: Any = checked_tensor(X)
            X = validate_data(self, tensor, reset=reset, skip_check_array=True)
        else:
            X = validate_data(self, X, reset=reset, **ACCEPTED)
        return checked_size("X", X)

    def _rows(self, X: Any, y: Any, module: AbstractAutoencoder | None) -> RowSource:
        """Return what to train on, beside its targets if there are any; anew without a module."""
        rows = ArrayRows(self._validated(X, reset=module is None))
        if not (self.architecture == "transcoder" if module is None else module.n_targets):
            return rows
        if y is None:
            raise ValueError(
                "`y` must hold what a transcoder predicts, shape (n_samples,) or "
                "(n_samples, n_targets); got None."
            )
        if isinstance(y, Tensor):
            y = checked_tensor(y[:, None] if y.ndim == 1 else y, "y", "n_targets")
        else:
            y = check_array(y, input_name="y", dtype=ACCEPTED["dtype"], ensure_2d=False)
            y = y[:, None] if y.ndim == 1 else y
        wanted = y.shape[1] if module is None else module.n_targets
        if y.shape != (rows.n_rows, wanted):
            raise ValueError(
                f"`y` must have shape (n_samples, n_targets) = {(rows.n_rows, wanted)}; "
                f"got {tuple(y.shape)}."
            )
        return PairedRows(rows, ArrayRows(checked_size("y", y)))

    def _new_run(self, source: RowSource) -> tuple[TrainConfig, AbstractAutoencoder]:
        """Return the settings and the untrained autoencoder of a new run."""
        sizes = {
            "n_latents": check_int("n_components", self.n_components, low=1),
            "n_features": self.n_features_in_,
            "n_steps": check_int("max_steps", self.max_steps, low=1),
            "batch_size": min(check_int("batch_size", self.batch_size, low=1), source.n_rows),
        }
        lr = default_learning_rate(**sizes) if self.lr is None else self.lr
        lr = check_float("lr", lr, low=0.0, open_low=True)
        device = choose_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        normalize: Any = self.normalize
        n_targets = source.n_features - self.n_features_in_
        module = self._new_module(self.n_features_in_, n_targets, sizes["n_latents"], seed)
        config = TrainConfig(
            batch_size=sizes["batch_size"],
            n_steps=sizes["n_steps"],
            lr=lr,
            seed=seed,
            device=str(device),
            progress=bool(self.verbose),
            normalize=normalize,
        )
        return config, module.to(device).train()

    def _new_module(
        self, n_features: int, n_targets: int, n_latents: int, seed: int
    ) -> AbstractAutoencoder:
        if self.architecture not in AUTOENCODERS:
            raise ValueError(
                f"`architecture` must be one of {', '.join(map(repr, sorted(AUTOENCODERS)))}; got "
                f"{self.architecture!r}.{near_matches(str(self.architecture), [*AUTOENCODERS])}"
            )
        make = AUTOENCODERS[self.architecture]
        known = inspect.signature(make).parameters
        options = {} if self.architecture_options is None else self.architecture_options
        if not isinstance(options, Mapping):
            kind = type(options).__name__
            raise TypeError(f"`architecture_options` must be a dict or None; got {kind}.")
        free = [name for name in known if name not in SET_BY_ESTIMATOR]
        for name in options:
            if name not in free:
                raise ValueError(
                    f"`architecture_options` of {self.architecture!r} must be among "
                    f"{', '.join(free)}; got {name!r}.{near_matches(str(name), free)}"
                )
        bounds = {"low": 1, "high": n_latents, "high_name": "n_components"}
        k = 1 if n_latents == 1 else check_int("k", self.k, **bounds)
        sizes = {"n_features": n_features, "n_latents": n_latents, "k": k, "seed": seed}
        sizes["n_targets"] = n_targets
        return make(**{name: size for name, size in sizes.items() if name in known}, **options)

    def _placed_module(self) -> AbstractAutoencoder:
        return self.module_.to(choose_device(self.device))

    def _keep(
        self, task: AutoencoderTask, state: TrainState, config: TrainConfig
    ) -> "SparseAutoencoder":
        """Take over what was learned, with all that `partial_fit` needs beside the weights."""
        mine = ("optimizer.", "dead.")
        if config.normalize != "none":  # then `module_` has other weights than the training
            mine += ("model.",)
        kept = {name: tensor for name, tensor in state.tensors().items() if name.startswith(mine)}
        self._config = config
        self._checkpoint = Checkpoint(kept, state.numbers(), task.constants, log={})
        self.module_ = task.folded().eval()
        self.n_iter_ = state.step
        return self
