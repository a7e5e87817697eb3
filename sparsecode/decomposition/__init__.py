"""scikit-learn estimators that factor data into sparse parts."""

from sparsecode.decomposition.butterfly import Butterfly as Butterfly
from sparsecode.decomposition.butterfly import butterfly as butterfly
from sparsecode.decomposition.dictionary_learning import DictionaryLearning as DictionaryLearning
from sparsecode.decomposition.masked_dictionary import (
    MaskedDictionaryLearning as MaskedDictionaryLearning,
)
from sparsecode.decomposition.predictive import (
    PredictiveSparseDecomposition as PredictiveSparseDecomposition,
)
from sparsecode.decomposition.sparse_coder import SparseCoder as SparseCoder
from sparsecode.decomposition.sparse_nmf import RobustSparseNMF as RobustSparseNMF
from sparsecode.decomposition.sparse_pca import SparsePCA as SparsePCA
