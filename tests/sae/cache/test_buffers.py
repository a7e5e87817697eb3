"""Memory is used again, and never while somebody holds it."""

import torch

from sae.cache.buffers import Buffers


def test_memory_that_nobody_holds_is_used_again() -> None:
    buffers = Buffers(64, most=2)
    addresses = {buffers.get().ctypes.data for _ in range(10)}
    assert len(addresses) == len(buffers) == 1


def test_memory_behind_a_tensor_or_a_view_is_not_used_again() -> None:
    buffers = Buffers(64, most=8)
    held = [torch.from_numpy(buffers.get()).view(torch.float32)[2:5] for _ in range(3)]
    held += [torch.from_numpy(buffers.get()).numpy()[::2] for _ in range(2)]
    assert len(buffers) == 5
    held.clear()
    buffers.get()
    assert len(buffers) == 5


def test_no_more_than_the_most_are_kept() -> None:
    buffers = Buffers(64, most=2)
    held = [buffers.get() for _ in range(5)]
    assert len({array.ctypes.data for array in held}) == 5
    assert len(buffers) == 2
