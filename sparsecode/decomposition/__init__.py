"""scikit-learn estimators that factor data into sparse parts."""

from sparsecode.decomposition.dictionary_learning import DictionaryLearning as DictionaryLearning
from sparsecode.decomposition.masked_dictionary import (
    MaskedDictionaryLearning as MaskedDictionaryLearning,
)
from sparsecode.decomposition.predictive import (
    PredictiveSparseDecomposition as PredictiveSparseDecomposition,
)
from sparsecode.decomposition.sparse_coder import SparseCoder as SparseCoder
from sparsecode.decomposition.sparse_pca import SparsePCA as SparsePCA
