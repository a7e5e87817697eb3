"""What an autoencoder is worth: on rows it has not seen, and inside their transformer."""

from sae.evaluation.loss import loss_recovered as loss_recovered
from sae.evaluation.reconstruction import evaluate as evaluate
from sae.evaluation.splice import Splice as Splice
from sae.evaluation.splice import splice as splice
