"""Indexes: one interface, one engine a file."""

from retrieval.index.base import AbstractIndex as AbstractIndex
from retrieval.index.base import KeepsDocuments as KeepsDocuments
from retrieval.index.exact import ExactIndex as ExactIndex
from retrieval.index.milvus import MilvusIndex as MilvusIndex
from retrieval.index.opening import INDEXES as INDEXES
from retrieval.index.opening import open_index as open_index
from retrieval.index.pgvector import PgvectorIndex as PgvectorIndex
from retrieval.index.pruning import Pruning as Pruning
from retrieval.index.qdrant import QdrantIndex as QdrantIndex
from retrieval.index.qdrant_edge import QdrantEdgeIndex as QdrantEdgeIndex
from retrieval.index.results import SearchResults as SearchResults
from retrieval.index.seismic import SeismicIndex as SeismicIndex
from retrieval.index.sharded import ShardedIndex as ShardedIndex
