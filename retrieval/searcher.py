"""Searcher: an encoder and an index, from documents to results and why they are results."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import scipy.sparse

from retrieval.encoders.base import contributions
from retrieval.index.base import AbstractIndex, KeepsDocuments, check_rows
from retrieval.index.results import SearchResults
from sparsecode._checks import check_int


@runtime_checkable
class TwoSided(Protocol):
    """An encoder that knows documents from queries."""

    def encode_documents(self, X: Any) -> Any:
        """Return the rows of documents."""
        ...

    def encode_queries(self, X: Any) -> Any:
        """Return the rows of queries."""
        ...


@runtime_checkable
class NamesDimensions(Protocol):
    """An encoder that can say what a dimension stands for."""

    def dimension_names(self, ids: Sequence[int]) -> list[str]:
        """Return a name for each dimension."""
        ...


@dataclass(frozen=True)
class Explanation:
    """Why a document has its score for a query: what each shared dimension adds, largest first."""

    dimensions: np.ndarray
    """Shared dimensions, (S,), int64."""

    names: list[str]
    """What they stand for: tokens, labels, or their numbers."""

    query_weights: np.ndarray
    """Weights of the query on them, (S,), float32."""

    document_weights: np.ndarray
    """Weights of the document on them, (S,), float32."""

    contributions: np.ndarray
    """Their products, (S,), float64."""

    score: float
    """The sum of the contributions, as a search returns it."""

    def __str__(self) -> str:
        """Return one line for each dimension, with the score below."""
        width = max((len(name) for name in self.names), default=0)
        lines = [
            f"{name.ljust(width)}  {query:.4f} x {document:.4f} = {product:.4f}"
            for name, query, document, product in zip(
                self.names,
                self.query_weights,
                self.document_weights,
                self.contributions,
                strict=True,
            )
        ]
        return "\n".join([*lines, f"score {self.score:.4f}"])


class Searcher:
    """Search for what an encoder takes: texts, or embeddings.

    Parameters
    ----------
    encoder : object
        With ``encode_documents`` and ``encode_queries``, or with ``transform`` for both (any
        scikit-learn transformer with sparse output). Rows come back as SciPy sparse matrices.
    index : AbstractIndex
    batch_size : int, default=1024
        Documents that are encoded at a time.

    Examples
    --------
    >>> from retrieval import ExactIndex
    >>> from sklearn.feature_extraction.text import HashingVectorizer
    >>> encoder = HashingVectorizer(n_features=1000, alternate_sign=False)
    >>> searcher = Searcher(encoder, ExactIndex(1000)).fit(["sparse codes", "dense vectors"])
    >>> searcher.search(["what is sparse"], k=1).ids
    array([[0]])
    >>> searcher.explain("what is sparse", 0).dimensions.shape
    (1,)
    """

    def __init__(self, encoder: Any, index: AbstractIndex, *, batch_size: int = 1024) -> None:
        self.encoder = encoder
        self.index = index
        self.batch_size = check_int("batch_size", batch_size, low=1)

    def fit(self, documents: Any, ids: Iterable[Any] | None = None) -> Self:
        """Encode documents and fill the empty index with them; the encoder stays as it is.

        Parameters
        ----------
        documents : sequence of str, or array of shape (N, d)
            What the encoder takes.
        ids : sequence of N ints or strings, or None, default=None
            As in `AbstractIndex.add`.

        Returns
        -------
        Searcher
            Itself.

        Raises
        ------
        ValueError
            If the index has documents: `add` is for more of them.
        """
        if len(self.index):
            raise ValueError(
                f"`index` must be empty for `fit`; it has {len(self.index)} documents. "
                "Add to them with `add`, or take a new index."
            )
        return self.add(documents, ids)

    def add(self, documents: Any, ids: Iterable[Any] | None = None) -> Self:
        """Encode further documents and add them to the index: all, or none if one is refused.

        Parameters
        ----------
        documents : sequence of str, or array of shape (N, d)
            What the encoder takes.
        ids : sequence of N ints or strings, or None, default=None
            As in `AbstractIndex.add`.

        Returns
        -------
        Searcher
            Itself.
        """
        from tqdm.auto import tqdm

        known = None if ids is None else list(ids)
        if known is not None and len(known) != len(documents):
            raise ValueError(
                f"`ids` must have one id for each of {len(documents)} documents; got {len(known)}."
            )
        batches = list(self._batches(len(documents)))
        quiet = None if len(batches) > 1 else True
        rows = [
            self.encode_documents(documents[own])
            for own in tqdm(batches, desc="encode", unit="batch", disable=quiet)
        ]
        if rows:
            self.index.add(scipy.sparse.vstack(rows, format="csr"), ids=known)
        return self

    def search(self, queries: Any, k: int = 10, **options: Any) -> SearchResults:
        """Encode queries and search for them.

        Parameters
        ----------
        queries : sequence of str, or array of shape (Q, d)
            What the encoder takes.
        k : int, default=10
        **options : object
            Of `AbstractIndex.search`, such as ``filter=...``.

        Returns
        -------
        SearchResults
        """
        return self.index.search(self.encode_queries(queries), k, **options)

    def explain(self, query: Any, document_id: int | str) -> Explanation:
        """Return what each dimension adds to the score of a document for a query.

        Parameters
        ----------
        query : str, or array of shape (d,)
            One query.
        document_id : int or str

        Returns
        -------
        Explanation
            Its contributions add up to the score.
        """
        if not isinstance(self.index, KeepsDocuments):
            raise TypeError(
                f"`explain` needs an index that gives back its documents; "
                f"{type(self.index).__name__} does not. Use ExactIndex."
            )
        one = [query] if isinstance(query, str) else query[None]
        asked, held = self.encode_queries(one), self.index.document(document_id)
        dims, products = contributions(asked, held)
        in_order = products[np.argsort(dims)]  # as the index adds them up
        return Explanation(
            dimensions=dims,
            names=self._names(dims),
            query_weights=asked[:, dims].toarray()[0],
            document_weights=held[:, dims].toarray()[0],
            contributions=products,
            score=float(np.float32(sum(in_order.tolist()))),
        )

    def encode_documents(self, documents: Any) -> Any:
        """Return the rows of documents, checked.

        Parameters
        ----------
        documents : sequence of str, or array of shape (N, d)

        Returns
        -------
        csr_matrix of shape (N, n_features)
        """
        two_sided = isinstance(self.encoder, TwoSided)
        encode = self.encoder.encode_documents if two_sided else self.encoder.transform
        return check_rows("encoded documents", encode(documents), self.index.n_features)

    def encode_queries(self, queries: Any) -> Any:
        """Return the rows of queries, checked.

        Parameters
        ----------
        queries : sequence of str, or array of shape (Q, d)

        Returns
        -------
        csr_matrix of shape (Q, n_features)
        """
        two_sided = isinstance(self.encoder, TwoSided)
        encode = self.encoder.encode_queries if two_sided else self.encoder.transform
        return check_rows("encoded queries", encode(queries), self.index.n_features)

    def _batches(self, n_rows: int) -> Iterator[slice]:
        for start in range(0, n_rows, self.batch_size):
            yield slice(start, start + self.batch_size)

    def _names(self, dims: np.ndarray) -> list[str]:
        if isinstance(self.encoder, NamesDimensions):
            return self.encoder.dimension_names(dims.tolist())
        return [str(dim) for dim in dims.tolist()]
