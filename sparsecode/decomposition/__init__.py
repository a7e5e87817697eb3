"""scikit-learn estimators that factor data into sparse parts."""

from sparsecode.decomposition.sparse_pca import SparsePCA as SparsePCA
