"""The whole dispatch rule: which implementation of an operation runs. No global state."""

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sparsecode._checks import check_choice

Impl = Literal["auto", "reference", "cpu", "triton"]
IMPLS = ("auto", "reference", "cpu", "triton")

logger = logging.getLogger("sparsecode")
_logged: set[str] = set()


def choose_impl(
    op: str,
    impl: str,
    tensors: tuple[Tensor, ...],
    *,
    cpu: Callable[[], str | None] | None = None,
    triton: Callable[[], str | None] | None = None,
) -> str:
    """Return "reference", "cpu" or "triton" for one call of `op`.

    ``cpu`` and ``triton`` are None where the operation has no such implementation, else functions
    that return the objection to this call (a short fact) or None; that of ``triton`` knows about
    devices too, since its interpreter runs on the CPU. A named implementation never falls back;
    "auto" prefers Triton on CUDA, the fast path on the CPU, else the reference. Inside
    ``torch.compile`` it takes the reference, which is one graph of plain operations.
    """
    check_choice("impl", impl, IMPLS)
    device = tensors[0].device.type
    if impl == "reference":
        return impl
    if impl == "auto" and torch.compiler.is_compiling():
        return "reference"
    if impl == "auto":
        candidate = {"cuda": ("triton", triton), "cpu": ("cpu", cpu)}.get(device)
        if candidate is None or candidate[1] is None:
            return "reference"
        objection = _asked(candidate[1])
        if objection is None:
            return candidate[0]
        note = f"{op}: not using {candidate[0]!r}: {objection}"
        if note not in _logged:
            _logged.add(note)
            logger.debug(note)
        return "reference"
    supports = cpu if impl == "cpu" else triton
    objection = "there is no such implementation" if supports is None else None
    if objection is None and impl == "cpu" and device != "cpu":
        objection = f"tensors on {device}"
    if objection is None and supports is not None:
        objection = _asked(supports)
    if objection is not None:
        raise NotImplementedError(
            f'`{op}(impl="{impl}")` is unsupported here: {objection}. '
            'Use impl="auto" or impl="reference".'
        )
    return impl


def _asked(supports: Callable[[], str | None]) -> str | None:
    """Return the objection, which may be that Triton is not there."""
    try:
        return supports()
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        return "triton is not installed (pip install 'sparsecode[triton]')"
