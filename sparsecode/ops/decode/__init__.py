"""Decoding of sparse codes."""

from sparsecode.ops.decode.api import decode as decode
from sparsecode.ops.decode.api import decode_mse as decode_mse
