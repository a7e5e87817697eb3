"""The reconstruction error at several budgets at once."""

from sparsecode.ops.hierarchical.api import hierarchical_mse as hierarchical_mse
