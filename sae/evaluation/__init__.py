"""What an autoencoder is worth: on rows it has not seen, and inside their transformer."""

from sae.evaluation.absorption import absorption as absorption
from sae.evaluation.activation_sparsity import activation_sparsity as activation_sparsity
from sae.evaluation.loss import loss_recovered as loss_recovered
from sae.evaluation.probing import first_letters as first_letters
from sae.evaluation.probing import probe as probe
from sae.evaluation.reconstruction import evaluate as evaluate
from sae.evaluation.saebench import SAEBenchConfig as SAEBenchConfig
from sae.evaluation.saebench import SAEBenchModel as SAEBenchModel
from sae.evaluation.splice import Splice as Splice
from sae.evaluation.splice import splice as splice
from sae.evaluation.stability import stability as stability
from sae.evaluation.suite import suite as suite
