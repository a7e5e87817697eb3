"""FlopsEncoder: sparse rows that learn how many entries they need, at the least expected cost."""

import copy
import warnings
from typing import Any

import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from retrieval.encoders.base import AbstractEncoder, largest, unit_rows
from retrieval.encoders.flops_task import FlopsSettings, FlopsTask, Kind
from retrieval.encoders.projection import SparseProjection
from retrieval.encoders.rows import (
    SideBySide,
    as_csr,
    check_trainable,
    finite_rows,
    label_column,
    padded,
    read_embeddings,
    sampled,
    spans,
    stacked,
    trained,
)
from sparsecode._checks import check_float, check_int
from sparsecode.decomposition.rows import choose_device
from sparsecode.solvers.base import codes_of
from sparsecode.training import TrainConfig
from sparsecode.training.array_rows import ArrayRows

COMPONENTS_PER_FEATURE = 4
TOLERATED_EMPTY = 0.1  # share of training rows without an entry
MEASURED_ROWS = 2048  # of the training data, for the last adjustment to `target_active`


class FlopsEncoder(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, AbstractEncoder, BaseEstimator
):
    """Learn sparse rows whose scores cost few products (Paria et al.).

    A siamese projection, an activation that leaves few entries, and rows of length 1, trained with
    a loss on their dot products plus the weighted FLOPs regularizer ``sum_j (mean_i |a_ij|)^2``. It
    also evens out how often dimensions are used, which the l1 norm, kept as the baseline, does not.

    Parameters
    ----------
    n_components : int or None, default=None
        Dimensions F. None takes four times as many as embeddings have features.
    activation : {"relu", "soft_threshold", "step"}, default="relu"
        See `SparseProjection`; "soft_threshold" gives negative entries too.
    threshold : float, default=0.5
        Of the soft threshold.
    regularizer : {"flops", "l1"}, default="flops"
    weight : float, default=1.0
        Of the regularizer.
    target_active : float or None, default=None
        Entries of a training row, on average, that the weight is steered to from where it starts;
        at the end the biases are moved alike by what is missing. Rows of another kind, such as
        queries where documents were learned from, have more or fewer. None leaves the weight, with
        its ramp.
    ramp : {"quadratic", "linear", "constant"}, default="quadratic"
        How the weight rises.
    ramp_share : float, default=1/3
        Share of the steps over which it does.
    loss : str, default="auto"
        What orders scores. Rows alone: "distillation", which keeps the neighborhoods that the
        embeddings have in a batch. Labels: "triplet" (semi-hard), "angular_margin" or
        "contrastive". Pairs: "contrastive" or "distillation". Pairs with negatives: "contrastive"
        or "triplet". "auto" takes the first named.
    temperature : float, default=0.1
        What cosines are divided by.
    margin : float, default=0.1
        Of triplets, and of angles.
    scale : float, default=64.0
        What cosines of classes are multiplied by under an angular margin.
    encoder : nn.Module or None, default=None
        Trained along with the projection: takes the rows and gives embeddings. It needs labels or
        pairs. A copy of it is trained.
    max_steps : int, default=500
        Optimizer steps, and the length of all schedules.
    batch_size : int, default=256
        Rows of a step; with fewer samples, each step takes all of them.
    lr : float, default=0.005
        Highest learning rate.
    random_state : int, RandomState instance or None, default=0
        Of the start and the order of the rows. Global random states are neither read nor changed.
    device : str, default="auto"
        Where to compute; "auto" takes the first GPU if there is one.
    verbose : bool, default=False
        Whether `fit` shows a progress bar.

    Attributes
    ----------
    module_ : SparseProjection
        What was learned.
    weight_ : float
        The weight of the regularizer at the end.
    n_iter_ : int
        Optimizer steps taken.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    retrieval.ContrastiveSparseEncoder : As many entries for every row, chosen after the training.

    References
    ----------
    Paria et al. (2020), "Minimizing FLOPs to Learn Efficient Sparse Representations".
    arXiv:2004.05665. Differs from it in: "distillation" and `target_active`, which are ours.

    Examples
    --------
    >>> from retrieval import FlopsEncoder
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    >>> encoder = FlopsEncoder(target_active=8, max_steps=20).fit(X)
    >>> encoder.transform(X).shape
    (300, 64)
    """

    module_: SparseProjection
    weight_: float
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        n_components: int | None = None,
        *,
        activation: str = "relu",
        threshold: float = 0.5,
        regularizer: str = "flops",
        weight: float = 1.0,
        target_active: float | None = None,
        ramp: str = "quadratic",
        ramp_share: float = 1 / 3,
        loss: str = "auto",
        temperature: float = 0.1,
        margin: float = 0.1,
        scale: float = 64.0,
        encoder: nn.Module | None = None,
        max_steps: int = 500,
        batch_size: int = 256,
        lr: float = 5e-3,
        random_state: Any = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.activation = activation
        self.threshold = threshold
        self.regularizer = regularizer
        self.weight = weight
        self.target_active = target_active
        self.ramp = ramp
        self.ramp_share = ramp_share
        self.loss = loss
        self.temperature = temperature
        self.margin = margin
        self.scale = scale
        self.encoder = encoder
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "FlopsEncoder":
        """Learn from rows, with labels or without.

        Parameters
        ----------
        X : array, data frame, Tensor or path of a .npy file, of shape (n_samples, n_features)
            Memory-mapped arrays and files are read a batch at a time.
        y : array of shape (n_samples,) or None, default=None
            Labels: rows of one label are pulled together. None keeps the neighborhoods that the
            embeddings have.

        Returns
        -------
        FlopsEncoder
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, the loss does not serve such data, or `X` has no rows,
            NaN, infinite or far too large entries.
        """
        rows = read_embeddings(self, X, reset=True)
        if y is None:
            if self.encoder is not None:
                raise ValueError(
                    "`encoder` needs labels or pairs to learn from; got rows alone. Give `y`, or "
                    "use `fit_pairs`."
                )
            return self._fit([rows], "rows")
        labels = label_column(y, len(rows))
        return self._fit([rows, labels], "labels", n_classes=int(labels.max()) + 1)

    def fit_pairs(self, Q: Any, D: Any, negatives: Any = None) -> "FlopsEncoder":
        """Learn from pairs of queries and documents.

        Parameters
        ----------
        Q : array, data frame, Tensor or path of a .npy file, of shape (n_pairs, n_features)
        D : as `Q`
            The document of each query.
        negatives : as `Q`, or None, default=None
            A document for each query that is not relevant.

        Returns
        -------
        FlopsEncoder
            The estimator itself.
        """
        parts = [read_embeddings(self, Q, reset=True), read_embeddings(self, D, reset=False)]
        if negatives is not None:
            parts.append(read_embeddings(self, negatives, reset=False))
        if len({len(part) for part in parts}) > 1:
            raise ValueError(
                "`Q`, `D` and `negatives` must have a row for each pair; "
                f"got {', '.join(str(len(part)) for part in parts)} rows."
            )
        return self._fit(parts, "pairs" if negatives is None else "triplets")

    def transform(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the sparse rows of `X`.

        Parameters
        ----------
        X : array, data frame, Tensor or path of a .npy file, of shape (n_samples, n_features)
        k : int or None, default=None
            Entries to keep in each row at most, the largest first; None keeps all.

        Returns
        -------
        csr_matrix of shape (n_samples, n_components), float32
            Sorted, without explicit zeros, of length 1 or 0.
        """
        check_is_fitted(self)
        rows = ArrayRows(read_embeddings(self, X, reset=False))
        module = self.module_.to(choose_device(self.device))
        width = module.n_components
        if k is not None:
            k = check_int("k", k, low=1, high=width, high_name="n_components")
        parts = []
        for start, stop in spans(rows.n_rows, max(self.n_features_in_, width)):
            part = finite_rows(rows, start, stop).float()
            with torch.no_grad():
                dense = module(padded(part).to(module.shift.device))[: len(part)]
            kept = largest(as_csr(codes_of(dense)), k)
            parts.append(kept if k is None else unit_rows(kept))
        return stacked(parts)

    def encode_documents(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the sparse rows of documents; the same as `transform`."""
        return self.transform(X, k=k)

    def encode_queries(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the sparse rows of queries; the same as `transform`."""
        return self.transform(X, k=k)

    @property
    def n_dimensions(self) -> int:
        """Columns of what it returns."""
        return self.module_.n_components

    @property
    def _n_features_out(self) -> int:
        return self.module_.n_components

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _fit(self, parts: list[Any], kind: Kind, n_classes: int = 0) -> "FlopsEncoder":
        if self.encoder is not None:
            check_trainable("encoder", self.encoder)
        source = SideBySide(*parts)
        settings = self._settings()
        settings.loss_for(kind)
        device = choose_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config = TrainConfig(
            n_steps=check_int("max_steps", self.max_steps, low=1),
            batch_size=min(check_int("batch_size", self.batch_size, low=1), source.n_rows),
            lr=check_float("lr", self.lr, low=0.0, open_low=True),
            seed=seed,
            device=str(device),
            progress=bool(self.verbose),
        )
        sample = source.rows(0, 1)[:, : self.n_features_in_].cpu()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self._new_module(sample).to(device).train()
            task = FlopsTask(module, settings, kind, self.n_features_in_, n_classes)
        state = trained(task, source, config)
        self.module_ = module.eval()
        if settings.target_active is not None:
            rows = torch.cat(task.sides(sampled(source, MEASURED_ROWS, seed).to(device)))
            self.module_.calibrate(rows, settings.target_active)
            self._warn_of_empty(rows)
        self.weight_ = task.scheduled()["weight"]
        self.n_iter_ = state.step
        return self

    @torch.no_grad()
    def _warn_of_empty(self, rows: Tensor) -> None:
        empty = float((self.module_(rows) == 0).all(1).double().mean())
        if empty > TOLERATED_EMPTY:
            warnings.warn(
                f"{empty:.0%} of the training rows have no entry, and no search finds them. "
                "Use a higher `target_active`, or ContrastiveSparseEncoder, which gives each row "
                "equally many.",
                UserWarning,
                stacklevel=4,
            )

    def _settings(self) -> FlopsSettings:
        chosen: dict[str, Any] = {
            name: getattr(self, name) for name in FlopsSettings.__dataclass_fields__
        }
        return FlopsSettings(**chosen)

    def _new_module(self, sample: Tensor) -> SparseProjection:
        """Return the untrained module, as wide as the embeddings of a sample ask for."""
        backbone = None if self.encoder is None else copy.deepcopy(self.encoder)
        with torch.no_grad():
            embeddings = sample if backbone is None else backbone(sample)
        if embeddings.ndim != 2:
            raise ValueError(
                "`encoder` must give embeddings of shape (n_rows, n_features); got "
                f"{tuple(embeddings.shape)}."
            )
        width = embeddings.shape[1]
        n_components = self.n_components
        if n_components is None:
            n_components = COMPONENTS_PER_FEATURE * width
        activation: Any = self.activation
        return SparseProjection(
            width,
            check_int("n_components", n_components, low=1),
            activation=activation,
            threshold=self.threshold,
            backbone=backbone,
        )
