"""What a code is worth: pure functions of tensors, and the sums behind them."""

from sparsecode.metrics.at_sparsity import fvu_at_sparsity as fvu_at_sparsity
from sparsecode.metrics.concentration import gini as gini
from sparsecode.metrics.concentration import participation_ratio as participation_ratio
from sparsecode.metrics.dictionary import coherence as coherence
from sparsecode.metrics.dictionary import largest_cosines as largest_cosines
from sparsecode.metrics.dictionary import recovery_error as recovery_error
from sparsecode.metrics.dictionary import stability as stability
from sparsecode.metrics.products import ProductSums as ProductSums
from sparsecode.metrics.products import product_variance as product_variance
from sparsecode.metrics.reconstruction import ReconstructionSums as ReconstructionSums
from sparsecode.metrics.reconstruction import explained_variance as explained_variance
from sparsecode.metrics.reconstruction import fvu as fvu
from sparsecode.metrics.sparsity import FiringCounts as FiringCounts
from sparsecode.metrics.sparsity import dead_fraction as dead_fraction
from sparsecode.metrics.sparsity import hoyer as hoyer
from sparsecode.metrics.sparsity import l0 as l0
from sparsecode.metrics.spectrum import effective_rank as effective_rank
from sparsecode.metrics.spectrum import matrix_entropy as matrix_entropy
from sparsecode.metrics.spectrum import nuclear_norm_surrogate as nuclear_norm_surrogate
