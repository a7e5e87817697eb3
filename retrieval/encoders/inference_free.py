"""InferenceFreeEncoder: documents through a masked language model, queries through a table."""

from collections.abc import Sequence
from typing import Any

import scipy.sparse

from retrieval.encoders.base import AbstractEncoder
from retrieval.encoders.lexical_model import LexicalModel
from retrieval.encoders.lexical_task import LexicalTraining, train_lexical
from retrieval.encoders.query_table import QueryTable
from sparsecode._checks import check_int


class InferenceFreeEncoder(AbstractEncoder):
    """Weigh the tokens of documents by a masked language model, and those of queries by a table.

    A document gets ``log(1 + max over places of relu(logits))`` for each token of the vocabulary,
    with the logarithm nested `n_logs` times; a query gets ``relu(idf)`` for each of its own tokens.
    The score is their dot product, so that a query costs no model. `fit` trains the model, and the
    table with `learn_idf`, on queries and their documents; the FLOPs regularizer, with an l0 mask
    if asked for, falls on documents alone.

    Parameters
    ----------
    model : str, path or transformers model with a masked-LM head
        A name or folder is read from safetensors only.
    tokenizer : transformers tokenizer or None, default=None
        None takes the one beside a model that is given by name.
    idf : mapping of str to float, path of a JSON file (or .json.gz), or None, default=None
        Weights of the query table by token, 1 for those that are missing; see
        `inverse_document_frequencies`.
    learn_idf : bool, default=False
        Whether `fit` changes the query table.
    n_logs : int, default=1
        2 is the l0 activation.
    max_length : int, default=256
        Tokens of a document that are read, and of a query in training.
    max_query_length : int or None, default=None
        Tokens of a query that are looked up; None takes those that the tokenizer allows.
    batch_size : int, default=32
        Documents encoded at a time.
    device : str, default="auto"
        Where to train; "auto" takes the first GPU if there is one.

    Attributes
    ----------
    history_ : list of dict
        Rows of metrics of the last `fit`.

    References
    ----------
    Geng et al. (2024), "Towards Competitive Search Relevance For Inference-Free Learned Sparse
    Retrievers". arXiv:2411.04403. Shen et al. (2025), "Exploring l0 Sparsification for
    Inference-free Sparse Retrievers". arXiv:2504.14839. Differ from them in: Adam without decay of
    weights, and the schedule of the rate that all training here follows.
    """

    history_: list[dict[str, Any]]

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        idf: Any = None,
        learn_idf: bool = False,
        n_logs: int = 1,
        max_length: int = 256,
        max_query_length: int | None = None,
        batch_size: int = 32,
        device: str = "auto",
    ) -> None:
        self.documents = LexicalModel(model, tokenizer, n_logs=n_logs, max_length=max_length)
        self.queries = QueryTable(
            self.documents.tokenizer,
            self.documents.n_tokens,
            idf,
            learn=learn_idf,
            max_length=max_query_length,
        )
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
    ) -> "InferenceFreeEncoder":
        """Train on queries and their documents.

        Parameters
        ----------
        queries : sequence of str
        documents : sequence of str
            The right document of each query.
        negatives : sequence of str or of sequences of str, or None, default=None
            Other documents of each query, equally many.
        teacher : array of shape (n_queries, 1 + n_negatives) or None, default=None
            Scores of the right document and the others; `retrieval.losses.ensemble` makes one of
            several teachers.
        training : LexicalTraining or None, default=None
            None takes its defaults.

        Returns
        -------
        InferenceFreeEncoder
            The encoder itself.
        """
        settings = LexicalTraining() if training is None else training
        self.history_ = train_lexical(
            self.documents,
            self.queries,
            (queries, documents, negatives),
            teacher,
            settings,
            self.device,
        )
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
        """Return the rows of queries from the table; no model runs."""
        return self.queries.encode(X, k)

    @property
    def n_dimensions(self) -> int:
        """Size of the vocabulary."""
        return self.documents.n_tokens

    def dimension_names(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of some dimensions."""
        return self.documents.token_names(ids)
