"""Thresholds as they are defined: eager, any floating dtype, plain autograd."""

import torch
from torch import Tensor


def threshold(x_NF: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, ids and row boundaries of the entries with ``x > theta``, ids ascending."""
    keep_NF = x_NF.detach() > theta
    ids = keep_NF.nonzero()[:, 1]
    crow = torch.nn.functional.pad(keep_NF.sum(-1).cumsum(0), (1, 0))
    return x_NF[keep_NF], ids, crow
