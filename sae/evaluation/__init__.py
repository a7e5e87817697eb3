"""What an autoencoder is worth on rows it has not seen."""

from sae.evaluation.reconstruction import evaluate as evaluate
