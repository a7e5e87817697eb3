"""Real rows for tests of autoencoders, from the text that ships."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsecode.datasets import load_shakespeare


@pytest.fixture(scope="session")
def letter_pairs() -> Tensor:
    """Counts of letter pairs, hashed to 48 places, in windows of 32 characters of the text."""
    text = np.frombuffer("".join(load_shakespeare()).encode("ascii", "replace"), np.uint8)
    pairs = (text[:-1].astype(np.int64) * 256 + text[1:]) * 2654435761 % 2**32 * 48 >> 32
    windows = np.lib.stride_tricks.sliding_window_view(pairs, 31)[::16]
    rows = np.zeros((len(windows), 48), np.float32)
    np.add.at(rows, (np.arange(len(windows))[:, None], windows), 1.0)
    return torch.from_numpy(rows)
