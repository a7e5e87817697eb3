"""ContrastiveSparseEncoder: sparse codes of frozen embeddings, for any number of entries."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted

from retrieval.encoders.base import AbstractEncoder, unit_rows
from retrieval.encoders.contrastive_task import ContrastiveSettings, ContrastiveTask, Kind
from retrieval.encoders.rows import (
    KINDS,
    SideBySide,
    as_csr,
    finite_rows,
    label_column,
    padded,
    read_embeddings,
    sampled,
    spans,
    stacked,
    trained,
)
from retrieval.encoders.tied_topk import WIDER, TiedTopK
from sparsecode._checks import check_float, check_int
from sparsecode.codes import SparseCodes
from sparsecode.decomposition.rows import choose_device
from sparsecode.training import (
    RowSource,
    TrainConfig,
    TrainState,
    default_learning_rate,
    one_pass,
)
from sparsecode.training.array_rows import ArrayRows
from sparsecode.training.checkpoint import Checkpoint

LATENTS_PER_FEATURE = 4
MEASURED_ROWS = 8192  # of the training data, for the lengths of codes


class ContrastiveSparseEncoder(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, AbstractEncoder, BaseEstimator
):
    """Learn sparse codes of embeddings that keep their neighborhoods (CSR, CSRv2).

    A tied TopK autoencoder on frozen embeddings: ``a = W (v - b_pre) + b_latent``, of which the `k`
    largest positive entries are kept, and ``W^T z + b_pre`` decodes. The loss is
    ``(L_k + L_4k / 8) / variance + beta L_aux + gamma L_cl``: the errors with k and 4 k entries,
    what dead latents explain of the rest, and a contrastive term that pushes codes of different
    rows apart, and those of one label, or of a query and its document, together. One fit serves any
    number of entries: ``transform(X, k=8)``.

    Parameters
    ----------
    n_components : int or None, default=None
        Latents F. None takes four times as many as there are features.
    k : int, default=32
        Entries of a code; at most all latents count.
    k_start : int or None, default=64
        Entries at the start of the training, from where they fall linearly to `k` (CSRv2), so that
        fewer latents die; at most a quarter of the latents count, and at least `k`. None keeps `k`
        throughout, as in CSR.
    k_anneal_share : float, default=0.7
        Share of the steps over which they fall.
    k_aux : int, default=512
        Dead latents that may explain what the living ones left over of a row.
    beta : float, default=1/32
        Weight of ``L_aux``.
    gamma : float, default=0.3
        Weight of ``L_cl``.
    temperature : float, default=0.2
        What cosines are divided by in ``L_cl``.
    normalize : bool, default=True
        Whether codes are scaled to length 1, so that their dot products are the cosines they were
        trained for. `inverse_transform` then gives them the mean length of codes with as many
        entries; with False it is exact.
    max_steps : int, default=500
        Optimizer steps of `fit`, and the length of all schedules.
    batch_size : int, default=256
        Rows of a step; with fewer samples, each step takes all of them.
    lr : float or None, default=None
        Highest learning rate; None takes `sparsecode.training.default_learning_rate`.
    random_state : int, RandomState instance or None, default=0
        Of the start and the order of the rows. Global random states are neither read nor changed.
    device : str, default="auto"
        Where to compute; "auto" takes the first GPU if there is one.
    verbose : bool, default=False
        Whether `fit` shows a progress bar.

    Attributes
    ----------
    module_ : TiedTopK
        The weights, ``W`` (F, D), ``b_latent`` (F,) and ``b_pre`` (D,).
    components_ : ndarray of shape (n_components, n_features)
        A copy of ``module_.W``.
    code_norms_ : ndarray
        Mean length of the codes of training rows with 1, 2, ... entries.
    n_iter_ : int
        Optimizer steps taken.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if `fit` saw a data frame with such names.

    See Also
    --------
    retrieval.FlopsEncoder : Learns how many entries each row needs.

    Notes
    -----
    Differs from the papers in: the errors are divided by the variance of the embeddings, so that
    `gamma` means the same for any of them; ``b_pre`` starts at the mean, and W with rows of length
    1; latents are dead after a thirtieth of the run without firing, counted in rows; a second view
    of each row, which the released code compares with, is left out, as in equation (6).

    References
    ----------
    Wen et al. (2025), "Beyond Matryoshka: Revisiting Sparse Coding for Adaptive Representation",
    with its code. arXiv:2503.01776. Labels and the schedule of k: Guo et al. (2026), "CSRv2".
    arXiv:2602.05735.

    Examples
    --------
    >>> from retrieval import ContrastiveSparseEncoder
    >>> X = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32)
    >>> encoder = ContrastiveSparseEncoder(k=4, max_steps=20).fit(X)
    >>> codes = encoder.transform(X)
    >>> codes.shape, int(codes.getnnz(axis=1).max())
    ((500, 64), 4)
    >>> int(encoder.transform(X, k=2).getnnz(axis=1).max())
    2
    """

    module_: TiedTopK
    code_norms_: np.ndarray
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        n_components: int | None = None,
        k: int = 32,
        *,
        k_start: int | None = 64,
        k_anneal_share: float = 0.7,
        k_aux: int = 512,
        beta: float = 1 / 32,
        gamma: float = 0.3,
        temperature: float = 0.2,
        normalize: bool = True,
        max_steps: int = 500,
        batch_size: int = 256,
        lr: float | None = None,
        random_state: Any = 0,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.k = k
        self.k_start = k_start
        self.k_anneal_share = k_anneal_share
        self.k_aux = k_aux
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature
        self.normalize = normalize
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "ContrastiveSparseEncoder":
        """Learn from all rows of `X`, forgetting what was learned before.

        Parameters
        ----------
        X : array, data frame, Tensor or path of a .npy file, of shape (n_samples, n_features)
            Memory-mapped arrays and files are read a batch at a time.
        y : array of shape (n_samples,) or None, default=None
            Labels: rows of one label are pulled together. None treats each row as its own.

        Returns
        -------
        ContrastiveSparseEncoder
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, or `X` has no rows, NaN, infinite or far too large
            entries.
        """
        return self._fit(*self._source(X, y, reset=True))

    def fit_pairs(self, Q: Any, D: Any) -> "ContrastiveSparseEncoder":
        """Learn from pairs of queries and documents, forgetting what was learned before.

        Parameters
        ----------
        Q : array, data frame, Tensor or path of a .npy file, of shape (n_pairs, n_features)
            Embeddings of queries.
        D : as `Q`
            Those of their documents, row by row.

        Returns
        -------
        ContrastiveSparseEncoder
            The estimator itself.
        """
        queries = read_embeddings(self, Q, reset=True)
        documents = read_embeddings(self, D, reset=False)
        if len(queries) != len(documents):
            raise ValueError(
                "`Q` and `D` must have a row for each pair; "
                f"got {len(queries)} and {len(documents)} rows."
            )
        return self._fit(SideBySide(queries, documents), "pairs")

    def partial_fit(self, X: Any, y: Any = None) -> "ContrastiveSparseEncoder":
        """Go on learning with one pass over the rows of `X`, in their order.

        Takes a step for every `batch_size` rows. The first call starts as `fit` does, from its
        rows. The schedules run over `max_steps` steps; steps beyond, also those after a `fit`, have
        a tenth of the highest learning rate. Of the parameters that are changed between calls, only
        `batch_size`, `device`, `k` (in `transform`) and `normalize` act before the next `fit`.

        Parameters
        ----------
        X : as of `fit`
        y : as of `fit`

        Returns
        -------
        ContrastiveSparseEncoder
            The estimator itself.
        """
        start: Checkpoint | None = vars(self).get("_checkpoint")
        if start is None and "module_" in vars(self):
            raise ValueError(
                "`partial_fit` needs the state of the training, which files do not keep. Use `fit`."
            )
        source, kind = self._source(X, y, reset=start is None)
        batch_size = check_int("batch_size", self.batch_size, low=1)
        if start is None:
            config, settings, module = self._new_run(source, kind)
        else:
            config, settings = self._run
            module = self._placed().train()
        task = ContrastiveTask(module, settings, kind)
        taken = vars(self).get("n_iter_", 0)
        options = {"batch_size": batch_size, "start": start, "n_taken": taken}
        state = one_pass(task, source, config, **options)
        return self._keep(task, state, config, settings, source)

    def transform(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the codes of `X`.

        Parameters
        ----------
        X : array, data frame, Tensor or path of a .npy file, of shape (n_samples, n_features)
        k : int or None, default=None
            Entries of a code at most; None takes the `k` of the constructor. Any number up to
            `n_components` is served by one fit.

        Returns
        -------
        csr_matrix of shape (n_samples, n_components), float32
            Non-negative, sorted, without explicit zeros; of length 1 with `normalize`.
        """
        check_is_fitted(self)
        rows = ArrayRows(read_embeddings(self, X, reset=False))
        width = self.module_.n_latents
        if k is None:
            kept = min(check_int("k", self.k, low=1), width)
        else:
            kept = check_int("k", k, low=1, high=width, high_name="n_components")
        codes = stacked([as_csr(part) for part in self._encoded(rows, kept)])
        return unit_rows(codes) if self.normalize else codes

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the embeddings that codes stand for, ``z @ components_ + module_.b_pre``.

        Parameters
        ----------
        X : csr_matrix or array of shape (n_samples, n_components)
            Codes, such as `transform` returns.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
        """
        check_is_fitted(self)
        csr: Any = "csr"
        codes: Any = scipy.sparse.csr_matrix(
            check_array(X, accept_sparse=csr, dtype=KINDS, input_name="X")
        ).astype(np.float32)
        if codes.shape[1] != self.module_.n_latents:
            raise ValueError(
                "`X` must hold codes of shape (n_samples, n_components) = "
                f"(any, {self.module_.n_latents}); got {codes.shape}."
            )
        if self.normalize:
            lengths = np.concatenate([[0.0], self.code_norms_])
            entries = np.minimum(np.diff(codes.indptr), len(self.code_norms_))
            codes = scipy.sparse.diags_array(lengths[entries]) @ unit_rows(codes)
        bias = self.module_.b_pre.detach().cpu().numpy()
        return np.asarray(codes @ self.components_ + bias, dtype=np.float32)

    def encode_documents(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the codes of documents in the form that is scored by dot products.

        Parameters
        ----------
        X : as of `transform`
        k : as of `transform`

        Returns
        -------
        csr_matrix of shape (n_samples, n_components), float32
            Of length 1, whatever `normalize` says.
        """
        return unit_rows(self.transform(X, k=k))

    def encode_queries(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the codes of queries; the same as `encode_documents`."""
        return self.encode_documents(X, k=k)

    @property
    def n_dimensions(self) -> int:
        """Columns of what it returns: the latents."""
        return self.module_.n_latents

    @property
    def components_(self) -> np.ndarray:
        """The dictionary, one atom a row: a copy of ``module_.W``."""
        return np.array(self.module_.W.detach().cpu().numpy(), order="C")

    @property
    def _n_features_out(self) -> int:
        return self.module_.n_latents

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # What was learned on a GPU can be unpickled where there is none.
        plain: Any = super().__getstate__()
        state: dict[str, Any] = dict(plain)
        if "_checkpoint" in state and self.module_.W.is_cuda:
            tensors = {name: tensor.cpu() for name, tensor in self._checkpoint.tensors.items()}
            state["module_"] = copy.deepcopy(self.module_).cpu()
            state["_checkpoint"] = replace(self._checkpoint, tensors=tensors)
        return state

    def _source(self, X: Any, y: Any, *, reset: bool) -> tuple[RowSource, Kind]:
        rows = read_embeddings(self, X, reset=reset)
        if y is None:
            return SideBySide(rows), "rows"
        return SideBySide(rows, label_column(y, len(rows))), "labels"

    def _fit(self, source: RowSource, kind: Kind) -> "ContrastiveSparseEncoder":
        config, settings, module = self._new_run(source, kind)
        task = ContrastiveTask(module, settings, kind)
        state = trained(task, source, config)
        return self._keep(task, state, config, settings, source)

    def _new_run(
        self, source: RowSource, kind: Kind
    ) -> tuple[TrainConfig, ContrastiveSettings, TiedTopK]:
        """Return the settings and the untrained module of a new run."""
        width = self.n_features_in_
        n_latents = LATENTS_PER_FEATURE * width if self.n_components is None else self.n_components
        n_latents = check_int("n_components", n_latents, low=1)
        settings = ContrastiveSettings(
            k=min(check_int("k", self.k, low=1), n_latents),
            k_start=self.k_start,
            k_anneal_share=self.k_anneal_share,
            k_aux=self.k_aux,
            beta=self.beta,
            gamma=self.gamma,
            temperature=self.temperature,
        )
        sizes = {
            "n_steps": check_int("max_steps", self.max_steps, low=1),
            "batch_size": min(check_int("batch_size", self.batch_size, low=1), source.n_rows),
        }
        lr = self.lr
        if lr is None:
            lr = default_learning_rate(n_latents=n_latents, n_features=width, **sizes)
        lr = check_float("lr", lr, low=0.0, open_low=True)
        device = choose_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config = TrainConfig(
            batch_size=sizes["batch_size"],
            n_steps=sizes["n_steps"],
            lr=lr,
            seed=seed,
            device=str(device),
            progress=bool(self.verbose),
        )
        return config, settings, TiedTopK(width, n_latents, seed).to(device).train()

    def _placed(self) -> TiedTopK:
        return self.module_.to(choose_device(self.device))

    def _keep(
        self,
        task: ContrastiveTask,
        state: TrainState,
        config: TrainConfig,
        settings: ContrastiveSettings,
        source: RowSource,
    ) -> "ContrastiveSparseEncoder":
        """Take over what was learned, with all that `partial_fit` needs beside the weights."""
        mine = ("optimizer.", "dead.")
        kept = {name: tensor for name, tensor in state.tensors().items() if name.startswith(mine)}
        self._run = (config, settings)
        self._checkpoint = Checkpoint(kept, state.numbers(), task.constants, log={})
        self.module_ = task.autoencoder.eval()
        self.n_iter_ = state.step
        rows = sampled(source, MEASURED_ROWS, config.seed)[:, : self.n_features_in_]
        wide = min(WIDER * settings.k, self.module_.n_latents)
        parts = [part.values for part in self._encoded(ArrayRows(rows), wide)]
        lengths = torch.cat(parts).square().cumsum(1).sqrt().mean(0)
        self.code_norms_ = lengths.cpu().numpy().astype(np.float32)
        return self

    def _fitted_from(self, module: TiedTopK, norms: np.ndarray) -> "ContrastiveSparseEncoder":
        """Take over weights from elsewhere, without the state of their training."""
        self.module_, self.code_norms_ = module, norms
        self.n_features_in_, self.n_iter_ = module.n_features, 0
        return self

    @torch.no_grad()
    def _encoded(self, rows: ArrayRows, k: int) -> Iterator[SparseCodes]:
        """Yield the codes of runs of rows."""
        module = self._placed()
        for start, stop in spans(rows.n_rows, max(module.n_features, module.n_latents)):
            part = finite_rows(rows, start, stop).to(module.W.device)
            yield module.encode(padded(part), k)[: len(part)]
