"""Sparse embeddings and sparse retrieval."""

from retrieval.index import AbstractIndex as AbstractIndex
from retrieval.index import ExactIndex as ExactIndex
from retrieval.index import Pruning as Pruning
from retrieval.index import SearchResults as SearchResults
from retrieval.index import open_index as open_index
