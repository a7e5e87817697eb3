"""What the launchers of all Triton kernels share; knows no mathematics.

Imported by ``triton.py`` files only, so that nothing else needs Triton to be installed.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def objection(kernel: Any, *tensors: Tensor) -> str | None:
    """Return why `kernel` cannot run on these floating tensors, or None.

    Tensors on the CPU need Triton's interpreter, which is chosen before a kernel's module is
    imported.
    """
    for tensor in tensors:
        if tensor.dtype not in FLOATS:
            return f"dtype {str(tensor.dtype).removeprefix('torch.')}"
        device = tensor.device.type
        if device == "cpu" and isinstance(kernel, JITFunction):
            return "tensors on cpu, where kernels run only if TRITON_INTERPRET=1 from the start"
        if device not in ("cuda", "cpu"):
            return f"tensors on {device}"
    return None


def power_of_2(n: int) -> int:
    """Return the least power of two that is at least n, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that sums of `dtype` are accumulated in."""
    return torch.promote_types(dtype, torch.float32)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """Return `wide` as kernels name it."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run `kernel` on the device of its first argument; an empty grid runs nothing."""
    if 0 in grid:
        return
    with torch.cuda.device_of(args[0]):
        kernel[grid](*args, **constants)
