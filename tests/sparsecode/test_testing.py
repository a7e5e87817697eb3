"""The shipped measure of memory sees what torch and NumPy hold."""

import numpy as np
import torch

from sparsecode.testing import TOLERANCES, max_new_bytes


def test_the_peak_counts_what_is_held_at_one_time():
    one_after_another = max_new_bytes(lambda: [torch.zeros(100_000).sum() for _ in range(5)])
    all_at_once = max_new_bytes(lambda: [torch.zeros(100_000) for _ in range(5)])
    assert 400_000 <= one_after_another < 800_000
    assert 2_000_000 <= all_at_once < 2_400_000


def test_numpy_counts_too():
    assert max_new_bytes(lambda: np.zeros(1_000_000).sum()) >= 8_000_000


def test_tolerances_loosen_with_precision():
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    rates = [TOLERANCES[kind]["rtol"] for kind in kinds]
    assert rates == sorted(rates)
