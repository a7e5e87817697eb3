"""Sparse embeddings and sparse retrieval."""

from retrieval import export as export
from retrieval import hybrid as hybrid
from retrieval import opensearch as opensearch
from retrieval.evaluation import beir as beir
from retrieval.evaluation import evaluate as evaluate
from retrieval.evaluation import search_cost as search_cost
from retrieval.evaluation import trec as trec
from retrieval.index import AbstractIndex as AbstractIndex
from retrieval.index import ExactIndex as ExactIndex
from retrieval.index import Pruning as Pruning
from retrieval.index import QdrantEdgeIndex as QdrantEdgeIndex
from retrieval.index import SearchResults as SearchResults
from retrieval.index import open_index as open_index
from retrieval.searcher import Explanation as Explanation
from retrieval.searcher import Searcher as Searcher
