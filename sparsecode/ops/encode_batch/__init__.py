"""Encoders with one selection over the batch."""

from sparsecode.ops.encode_batch.api import encode_batch_topk as encode_batch_topk
