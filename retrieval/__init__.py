"""Sparse embeddings and sparse retrieval."""

from typing import TYPE_CHECKING

from retrieval.encoders.base import AbstractEncoder as AbstractEncoder
from retrieval.encoders.base import contributions as contributions

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

        homes = {
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
        if name in homes:
            return getattr(import_module(f"retrieval.encoders.{homes[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(
            {
                *globals(),
                "ContrastiveSparseEncoder",
                "FlopsEncoder",
                "InferenceFreeEncoder",
                "LatentEncoder",
                "LexicalTraining",
                "SpladeEncoder",
                "inverse_document_frequencies",
                "load_encoder",
                "save_encoder",
            }
        )
