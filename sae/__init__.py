"""Sparse autoencoders on cached activations."""

from typing import TYPE_CHECKING

from sae.autoencoders import AUTOENCODERS as AUTOENCODERS
from sae.autoencoders import AbstractAutoencoder as AbstractAutoencoder
from sae.autoencoders import BatchTopK as BatchTopK
from sae.autoencoders import Bilinear as Bilinear
from sae.autoencoders import BilinearTopK as BilinearTopK
from sae.autoencoders import Crosscoder as Crosscoder
from sae.autoencoders import Gated as Gated
from sae.autoencoders import HierarchicalTopK as HierarchicalTopK
from sae.autoencoders import JumpReLU as JumpReLU
from sae.autoencoders import KSparse as KSparse
from sae.autoencoders import Losses as Losses
from sae.autoencoders import Matryoshka as Matryoshka
from sae.autoencoders import MultiTopK as MultiTopK
from sae.autoencoders import ReLU as ReLU
from sae.autoencoders import TopK as TopK
from sae.autoencoders import Transcoder as Transcoder
from sae.compat import export as export
from sae.evaluation import evaluate as evaluate
from sae.evaluation import loss_recovered as loss_recovered
from sae.evaluation import splice as splice
from sae.files import load as load
from sae.files import load_many as load_many
from sae.files import save as save
from sae.folding import fold_decoder_norms as fold_decoder_norms
from sae.folding import fold_input_scale as fold_input_scale
from sae.interpret import steer as steer
from sae.lazy import LazyAutoencoder as LazyAutoencoder
from sae.publish import push as push
from sae.pursuit import matching_pursuit as matching_pursuit
from sae.sweeps import Grid as Grid
from sae.sweeps import sweep as sweep
from sae.trainer import Trainer as Trainer
from sae.trainer import TrainResult as TrainResult
from sparsecode.training import TrainConfig as TrainConfig

if TYPE_CHECKING:
    from sae.estimator import SparseAutoencoder as SparseAutoencoder
else:

    def __getattr__(name: str) -> object:
        """Load the estimator when it is asked for: scikit-learn and pandas take long."""
        if name == "SparseAutoencoder":
            from sae.estimator import SparseAutoencoder

            return SparseAutoencoder
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted([*globals(), "SparseAutoencoder"])
