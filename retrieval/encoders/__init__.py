"""Encoders: from embeddings or texts to sparse rows that are scored by dot products."""

from retrieval.encoders.base import AbstractEncoder as AbstractEncoder
from retrieval.encoders.base import contributions as contributions
