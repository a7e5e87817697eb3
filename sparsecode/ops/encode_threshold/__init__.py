"""Encoders with thresholds."""

from sparsecode.ops.encode_threshold.api import encode_threshold as encode_threshold
