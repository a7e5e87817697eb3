"""Selections: top-k per row, per batch, per group."""

from sparsecode.ops.selection.api import batch_topk as batch_topk
from sparsecode.ops.selection.api import group_max as group_max
from sparsecode.ops.selection.api import topk as topk
