"""Sparse embeddings and sparse retrieval."""
