"""SpladeEncoder: documents and queries through one masked language model."""

from collections.abc import Sequence
from typing import Any

import scipy.sparse

from retrieval.encoders.base import AbstractEncoder
from retrieval.encoders.lexical_model import LexicalModel
from retrieval.encoders.lexical_task import LexicalTraining, train_lexical
from sparsecode._checks import check_int


class SpladeEncoder(AbstractEncoder):
    """Weigh the tokens of documents and of queries by the same masked language model.

    ``log(1 + max over places of relu(logits))`` for each token of the vocabulary, on both sides,
    with the FLOPs regularizer on both.

    Parameters
    ----------
    model : str, path or transformers model with a masked-LM head
        A name or folder is read from safetensors only.
    tokenizer : transformers tokenizer or None, default=None
        None takes the one beside a model that is given by name.
    n_logs : int, default=1
        Nested logarithms.
    max_length : int, default=256
        Tokens of a text that are read.
    batch_size : int, default=32
        Texts encoded at a time.
    device : str, default="auto"
        Where to train; "auto" takes the first GPU if there is one.

    Attributes
    ----------
    history_ : list of dict
        Rows of metrics of the last `fit`.

    References
    ----------
    Formal et al. (2021), "SPLADE v2: Sparse Lexical and Expansion Model for Information Retrieval".
    arXiv:2109.10086.
    """

    history_: list[dict[str, Any]]

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        n_logs: int = 1,
        max_length: int = 256,
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        self.documents = LexicalModel(model, tokenizer, n_logs=n_logs, max_length=max_length)
        self.batch_size = check_int("batch_size", batch_size, low=1)
        self.device = device

    def fit(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        negatives: Sequence[Any] | None = None,
        *,
        teacher: Any = None,
        training: LexicalTraining | None = None,
    ) -> "SpladeEncoder":
        """Train on queries and their documents; see `InferenceFreeEncoder.fit`.

        Parameters
        ----------
        queries : sequence of str
        documents : sequence of str
        negatives : sequence of str or of sequences of str, or None, default=None
        teacher : array of shape (n_queries, 1 + n_negatives) or None, default=None
        training : LexicalTraining or None, default=None

        Returns
        -------
        SpladeEncoder
            The encoder itself.
        """
        settings = LexicalTraining() if training is None else training
        texts = (queries, documents, negatives)
        self.history_ = train_lexical(self.documents, None, texts, teacher, settings, self.device)
        return self

    def encode_documents(
        self, X: Sequence[str], *, k: int | None = None
    ) -> scipy.sparse.csr_matrix:
        """Return the weights of tokens of documents.

        Parameters
        ----------
        X : sequence of str
        k : int or None, default=None
            Tokens to keep at most, the largest weights first.

        Returns
        -------
        csr_matrix of shape (n_documents, n_dimensions), float32
        """
        return self.documents.encode(X, k, self.batch_size)

    def encode_queries(self, X: Sequence[str], *, k: int | None = None) -> scipy.sparse.csr_matrix:
        """Return the weights of tokens of queries; as `encode_documents`."""
        return self.documents.encode(X, k, self.batch_size)

    @property
    def n_dimensions(self) -> int:
        """Size of the vocabulary."""
        return self.documents.n_tokens

    def dimension_names(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of some dimensions."""
        return self.documents.token_names(ids)
