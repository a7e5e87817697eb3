"""Optimizers for dictionaries."""

from sparsecode.optim.muon_adam import MuonAdam as MuonAdam
from sparsecode.optim.projected_adam import ProjectedAdam as ProjectedAdam
from sparsecode.optim.row_adam import RowAdam as RowAdam
