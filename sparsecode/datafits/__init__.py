"""How well a row is explained by its reconstruction."""

from sparsecode.datafits.base import AbstractDatafit as AbstractDatafit
from sparsecode.datafits.huber import Huber as Huber
from sparsecode.datafits.quadratic import MaskedQuadratic as MaskedQuadratic
from sparsecode.datafits.quadratic import Quadratic as Quadratic
from sparsecode.datafits.quadratic import WeightedQuadratic as WeightedQuadratic
