"""What makes a code sparse: the value of a penalty and its proximal operator."""

from sparsecode.penalties.base import AbstractPenalty as AbstractPenalty
from sparsecode.penalties.base import Convex as Convex
from sparsecode.penalties.base import CoordinateSeparable as CoordinateSeparable
from sparsecode.penalties.base import Subdifferentiable as Subdifferentiable
from sparsecode.penalties.constraints import NonNegative as NonNegative
from sparsecode.penalties.constraints import Simplex as Simplex
from sparsecode.penalties.constraints import UnitNorm as UnitNorm
from sparsecode.penalties.elastic_net import ElasticNet as ElasticNet
from sparsecode.penalties.group import GroupL21 as GroupL21
from sparsecode.penalties.k_support import GroupKSupport as GroupKSupport
from sparsecode.penalties.l0 import L0 as L0
from sparsecode.penalties.l0 import TopKBall as TopKBall
from sparsecode.penalties.l1 import L1 as L1
from sparsecode.penalties.log_sum import LogSum as LogSum
from sparsecode.penalties.lq import LHalf as LHalf
from sparsecode.penalties.lq import LTwoThirds as LTwoThirds
from sparsecode.penalties.mcp import CEL0 as CEL0
from sparsecode.penalties.mcp import MCP as MCP
from sparsecode.penalties.scad import SCAD as SCAD
from sparsecode.penalties.sorted_l1 import SortedL1 as SortedL1
from sparsecode.penalties.weighted_l1 import WeightedL1 as WeightedL1
