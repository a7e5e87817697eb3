"""Sparse representations in PyTorch: codes, operations, training, metrics."""

from sparsecode.codes import SparseCodes as SparseCodes
from sparsecode.ops.activation import threshold as threshold
from sparsecode.ops.decode import decode as decode
from sparsecode.ops.decode import decode_mse as decode_mse
from sparsecode.ops.encode import encode_topk as encode_topk
from sparsecode.ops.selection import batch_topk as batch_topk
from sparsecode.ops.selection import group_max as group_max
from sparsecode.ops.selection import topk as topk
