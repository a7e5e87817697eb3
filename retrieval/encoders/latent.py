"""LatentEncoder: anything that makes sparse codes, as an encoder with explained dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn

from retrieval.encoders.base import AbstractEncoder, largest, unit_rows
from retrieval.encoders.rows import CHUNK_ENTRIES, as_csr, stacked
from sparsecode._checks import check_finite, check_floating
from sparsecode.codes import SparseCodes


class LatentEncoder(AbstractEncoder):
    """Use the codes of a model for retrieval: a sparse autoencoder, a sparse coder, your own.

    Parameters
    ----------
    model : object
        With ``encode(x) -> SparseCodes`` for tensors of shape (N, D), such as every autoencoder of
        `sae`, or with a scikit-learn ``transform`` to codes, such as `SparseCoder`.
    labels : mapping of int to str, sequence of str, or None, default=None
        What latents stand for, used in explanations.
    normalize : bool, default=True
        Whether rows are scaled to length 1, so that scores are cosines of codes.

    Examples
    --------
    >>> import sparsecode
    >>> class Largest:
    ...     def encode(self, x):
    ...         return sparsecode.topk(x.relu(), 2)
    >>> encoder = LatentEncoder(Largest(), labels={2: "wings"})
    >>> encoder.encode_documents(torch.tensor([[0.0, 3.0, 4.0]])).data
    array([0.6, 0.8], dtype=float32)
    >>> encoder.dimension_names([1, 2])
    ['latent 1', 'wings']
    """

    def __init__(
        self,
        model: Any,
        *,
        labels: Mapping[int, str] | Sequence[str] | None = None,
        normalize: bool = True,
    ) -> None:
        encode, transform = (getattr(model, name, None) for name in ("encode", "transform"))
        if not callable(encode) and not callable(transform):
            raise TypeError(
                "`model` must have `encode(x) -> SparseCodes` or `transform(X)`; "
                f"{type(model).__name__} has neither."
            )
        self.model: Any = model
        self.normalize = bool(normalize)
        self._encodes = callable(encode)
        named = labels if isinstance(labels, Mapping) else dict(enumerate(labels or ()))
        self.labels = {int(latent): str(label) for latent, label in named.items()}
        self._width: int | None = None

    def encode_documents(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the codes of documents.

        Parameters
        ----------
        X : array or Tensor of shape (N, D)
        k : int or None, default=None
            Latents to keep at most, the largest first.

        Returns
        -------
        csr_matrix of shape (N, F), float32
        """
        x = check_finite("X", check_floating("X", X if isinstance(X, Tensor) else np.asarray(X)))
        if x.ndim != 2:
            raise ValueError(f"`X` must have shape (n_rows, n_features); got {tuple(x.shape)}.")
        size = max(1, CHUNK_ENTRIES // (64 * max(1, x.shape[1])))
        parts = [self._codes(part) for part in x.split(size)] if len(x) else [self._codes(x)]
        codes: Any = largest(stacked(parts), k)
        self._width = int(codes.shape[1])
        return unit_rows(codes) if self.normalize else codes

    def encode_queries(self, X: Any, *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the codes of queries; as `encode_documents`."""
        return self.encode_documents(X, k=k)

    @property
    def n_dimensions(self) -> int:
        """Width of the codes, known once something was encoded."""
        if self._width is None:
            raise ValueError("`n_dimensions` must be known; encode something first.")
        return self._width

    def dimension_names(self, ids: Sequence[int]) -> list[str]:
        """Return the labels of some latents, ``"latent 17"`` for those without one."""
        return [self.labels.get(int(i), f"latent {int(i)}") for i in ids]

    @torch.no_grad()
    def _codes(self, x: Tensor) -> scipy.sparse.csr_matrix:
        if not self._encodes:
            found = self.model.transform(x.cpu().numpy())
            rows = scipy.sparse.csr_matrix(found, dtype=np.float32)
            rows.sum_duplicates()
            rows.eliminate_zeros()
            return rows
        model = self.model
        if isinstance(model, nn.Module):
            known = next(model.parameters(), None)
            x = x if known is None else x.to(known.device)
        codes = self.model.encode(x)
        if not isinstance(codes, SparseCodes):
            raise TypeError(
                f"`model.encode` must return a SparseCodes; got {type(codes).__name__}."
            )
        return as_csr(codes)
