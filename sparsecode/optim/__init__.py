"""Optimizers for dictionaries."""

from sparsecode.optim.row_adam import RowAdam as RowAdam
