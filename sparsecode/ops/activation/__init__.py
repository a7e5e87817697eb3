"""Elementwise selections."""

from sparsecode.ops.activation.api import threshold as threshold
