"""Architectures, one a file; the dictionary names them for the command line and for files."""

from sae.autoencoders.base import AbstractAutoencoder as AbstractAutoencoder
from sae.autoencoders.base import Losses as Losses
from sae.autoencoders.base import ReconstructsProducts as ReconstructsProducts
from sae.autoencoders.batch_topk import BatchTopK as BatchTopK
from sae.autoencoders.bilinear import Bilinear as Bilinear
from sae.autoencoders.bilinear_topk import BilinearTopK as BilinearTopK
from sae.autoencoders.crosscoder import Crosscoder as Crosscoder
from sae.autoencoders.gated import Gated as Gated
from sae.autoencoders.hierarchical_topk import HierarchicalTopK as HierarchicalTopK
from sae.autoencoders.jumprelu import JumpReLU as JumpReLU
from sae.autoencoders.k_sparse import KSparse as KSparse
from sae.autoencoders.matryoshka import Matryoshka as Matryoshka
from sae.autoencoders.multi_topk import MultiTopK as MultiTopK
from sae.autoencoders.relu import ReLU as ReLU
from sae.autoencoders.topk import TopK as TopK
from sae.autoencoders.transcoder import Transcoder as Transcoder

AUTOENCODERS: dict[str, type[AbstractAutoencoder]] = {
    "topk": TopK,
    "k_sparse": KSparse,
    "hierarchical_topk": HierarchicalTopK,
    "batch_topk": BatchTopK,
    "matryoshka": Matryoshka,
    "jumprelu": JumpReLU,
    "gated": Gated,
    "relu": ReLU,
    "multi_topk": MultiTopK,
    "transcoder": Transcoder,
    "crosscoder": Crosscoder,
    "bilinear": Bilinear,
    "bilinear_topk": BilinearTopK,
}
