"""Sparse embeddings and sparse retrieval."""

from typing import TYPE_CHECKING

from retrieval import export as export
from retrieval import hybrid as hybrid
from retrieval import opensearch as opensearch
from retrieval.encoders.base import AbstractEncoder as AbstractEncoder
from retrieval.encoders.base import contributions as contributions
from retrieval.evaluation import beir as beir
from retrieval.evaluation import evaluate as evaluate
from retrieval.evaluation import search_cost as search_cost
from retrieval.evaluation import trec as trec
from retrieval.index import AbstractIndex as AbstractIndex
from retrieval.index import ExactIndex as ExactIndex
from retrieval.index import MilvusIndex as MilvusIndex
from retrieval.index import PgvectorIndex as PgvectorIndex
from retrieval.index import Pruning as Pruning
from retrieval.index import QdrantEdgeIndex as QdrantEdgeIndex
from retrieval.index import QdrantIndex as QdrantIndex
from retrieval.index import SearchResults as SearchResults
from retrieval.index import SeismicIndex as SeismicIndex
from retrieval.index import ShardedIndex as ShardedIndex
from retrieval.index import open_index as open_index
from retrieval.searcher import Explanation as Explanation
from retrieval.searcher import Searcher as Searcher

_HOMES = {
    "ContrastiveSparseEncoder": "contrastive",
    "FlopsEncoder": "flops",
    "InferenceFreeEncoder": "inference_free",
    "LatentEncoder": "latent",
    "LexicalTraining": "lexical_task",
    "SpladeEncoder": "splade",
    "inverse_document_frequencies": "query_table",
    "load_encoder": "files",
    "save_encoder": "files",
}

if TYPE_CHECKING:
    from retrieval.encoders.contrastive import ContrastiveSparseEncoder as ContrastiveSparseEncoder
    from retrieval.encoders.files import load_encoder as load_encoder
    from retrieval.encoders.files import save_encoder as save_encoder
    from retrieval.encoders.flops import FlopsEncoder as FlopsEncoder
    from retrieval.encoders.inference_free import InferenceFreeEncoder as InferenceFreeEncoder
    from retrieval.encoders.latent import LatentEncoder as LatentEncoder
    from retrieval.encoders.lexical_task import LexicalTraining as LexicalTraining
    from retrieval.encoders.query_table import (
        inverse_document_frequencies as inverse_document_frequencies,
    )
    from retrieval.encoders.splade import SpladeEncoder as SpladeEncoder
else:

    def __getattr__(name: str) -> object:
        """Load an encoder when it is asked for: scikit-learn and pandas take long."""
        from importlib import import_module

        if name in _HOMES:
            return getattr(import_module(f"retrieval.encoders.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
