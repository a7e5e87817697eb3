"""Linear encoders with a selection."""

from sparsecode.ops.encode.api import encode_topk as encode_topk
