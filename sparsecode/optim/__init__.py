"""Optimizers for dictionaries."""

from sparsecode.optim.projected_adam import ProjectedAdam as ProjectedAdam
from sparsecode.optim.row_adam import RowAdam as RowAdam
