"""Scoring: the documents with the largest dot products with sparse queries."""

from sparsecode.ops.scoring.api import score_candidates as score_candidates
from sparsecode.ops.scoring.api import score_rows as score_rows
from sparsecode.ops.scoring.api import score_topk as score_topk
from sparsecode.ops.scoring.api import score_topk_arrays as score_topk_arrays
from sparsecode.ops.scoring.postings import Postings as Postings
from sparsecode.ops.scoring.queries import Queries as Queries
