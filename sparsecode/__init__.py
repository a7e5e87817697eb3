"""Sparse representations in PyTorch: codes, operations, training, metrics."""

from typing import TYPE_CHECKING

from sparsecode.codes import SparseCodes as SparseCodes
from sparsecode.ops.activation import threshold as threshold
from sparsecode.ops.bilinear import bilinear_features as bilinear_features
from sparsecode.ops.decode import decode as decode
from sparsecode.ops.decode import decode_mse as decode_mse
from sparsecode.ops.encode import encode_topk as encode_topk
from sparsecode.ops.encode_batch import encode_batch_topk as encode_batch_topk
from sparsecode.ops.encode_threshold import encode_threshold as encode_threshold
from sparsecode.ops.hierarchical import hierarchical_mse as hierarchical_mse
from sparsecode.ops.selection import batch_topk as batch_topk
from sparsecode.ops.selection import group_max as group_max
from sparsecode.ops.selection import topk as topk

if TYPE_CHECKING:
    from sparsecode import datafits as datafits
    from sparsecode import datasets as datasets
    from sparsecode import decomposition as decomposition
    from sparsecode import losses as losses
    from sparsecode import metrics as metrics
    from sparsecode import optim as optim
    from sparsecode import penalties as penalties
    from sparsecode import robustness as robustness
    from sparsecode import solvers as solvers
    from sparsecode import training as training
else:

    def __getattr__(name: str) -> object:
        """Import a part of the library when it is asked for."""
        from importlib import import_module
        from importlib.util import find_spec

        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        from pkgutil import iter_modules

        return sorted({*globals(), *(part.name for part in iter_modules(__path__))})
