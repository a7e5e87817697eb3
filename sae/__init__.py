"""Sparse autoencoders on cached activations."""

from sae.autoencoders import AUTOENCODERS as AUTOENCODERS
from sae.autoencoders import AbstractAutoencoder as AbstractAutoencoder
from sae.autoencoders import KSparse as KSparse
from sae.autoencoders import Losses as Losses
from sae.autoencoders import TopK as TopK
from sae.estimator import SparseAutoencoder as SparseAutoencoder
from sae.evaluation import evaluate as evaluate
from sae.files import load as load
from sae.files import save as save
from sae.trainer import TrainResult as TrainResult
from sae.trainer import Trainer as Trainer
from sparsecode.training import TrainConfig as TrainConfig
