"""Products of two linear maps with a selection."""

from sparsecode.ops.bilinear.api import bilinear_features as bilinear_features
