"""What makes a code sparse: the value of a penalty and its proximal operator."""

from sparsecode.penalties.base import AbstractPenalty as AbstractPenalty
from sparsecode.penalties.base import CoordinateSeparable as CoordinateSeparable
from sparsecode.penalties.base import Subdifferentiable as Subdifferentiable
from sparsecode.penalties.elastic_net import ElasticNet as ElasticNet
from sparsecode.penalties.l0 import L0 as L0
from sparsecode.penalties.l1 import L1 as L1
