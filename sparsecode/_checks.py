"""Argument checks with one sentence form: what must hold, what was got, what to do."""

import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor


def check_int(
    name: str,
    value: object,
    *,
    low: int | None = None,
    high: int | None = None,
    high_name: str | None = None,
) -> int:
    """Return `value` as an int in [low, high]; bools and floats are refused.

    ``high_name`` names the bound in the message, e.g. ``"n_latents"``.
    """
    bounds = _interval(low, high, high_name)
    if isinstance(value, bool):
        raise TypeError(f"`{name}` must be an int{bounds}; got {value!r}.")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"`{name}` must be an int{bounds}; got {value!r}.") from None
    if (low is not None and number < low) or (high is not None and number > high):
        known = f" with {high_name}={high}" if high_name is not None else ""
        raise ValueError(f"`{name}` must be an int{bounds}; got {number}{known}.")
    return number


def check_float(
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
) -> float:
    """Return `value` as a finite float in [low, high], or (low, high] with `open_low`."""
    bracket = "(" if open_low else "["
    bounds = ""
    if low is not None or high is not None:
        left = "(-inf" if low is None else f"{bracket}{low:g}"
        right = "inf)" if high is None else f"{high:g}]"
        bounds = f" in {left}, {right}"
    if isinstance(value, bool) or (not isinstance(value, (int, float)) and not _is_scalar(value)):
        raise TypeError(f"`{name}` must be a number{bounds}; got {value!r}.")
    number = float(value)  # type: ignore[arg-type]
    too_low = low is not None and (number <= low if open_low else number < low)
    if not math.isfinite(number) or too_low or (high is not None and number > high):
        raise ValueError(f"`{name}` must be a finite number{bounds}; got {number:g}.")
    return number


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {listed}; got {value!r}.")
    return str(value)


def as_tensor(value: Any) -> Any:
    """Return a NumPy array as a tensor (copied if need be), anything else as is."""
    if not isinstance(value, np.ndarray):
        return value
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))


def check_floating(name: str, tensor: object) -> Tensor:
    """Return `tensor`, also given as a NumPy array, if it is real and floating."""
    tensor = as_tensor(tensor)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor; got {type(tensor).__name__}.")
    if not tensor.is_floating_point():
        raise TypeError(f"`{name}` must be a floating tensor; got dtype {_short(tensor.dtype)}.")
    return tensor


def check_shape(
    name: str, tensor: Tensor, expected: Sequence[int | None], axes: Sequence[str]
) -> Tensor:
    """Return `tensor` if its shape equals `expected`; None accepts any size on that axis.

    ``axes`` names each axis for the message. A matrix of exactly the transposed
    shape gets the question whether it was passed transposed.
    """
    got = tuple(tensor.shape)
    fits = len(got) == len(expected) and all(
        want is None or want == have for want, have in zip(expected, got, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        comma = "," if len(axes) == 1 else ""
        swapped = len(expected) == 2 and None not in expected and got == tuple(expected[::-1])
        hint = " Was it passed transposed?" if swapped else ""
        raise ValueError(
            f"`{name}` must have shape ({', '.join(axes)}{comma}) = ({wanted}{comma}); "
            f"got {got}.{hint}"
        )
    return tensor


def check_last_dim(name: str, tensor: Tensor, size: int, size_name: str) -> Tensor:
    """Return `tensor` if it has at least one axis and its last axis has `size` entries."""
    if tensor.ndim == 0 or tensor.shape[-1] != size:
        raise ValueError(
            f"`{name}` must have shape (..., {size_name}) = (..., {size}); "
            f"got {tuple(tensor.shape)}."
        )
    return tensor


def check_finite(
    name: str, tensor: Tensor, *, advice: str = "Drop or repair those rows first."
) -> Tensor:
    """Return `tensor` if it holds no NaN and no infinity; the message names the first bad row."""
    # One reduction, no (N, D) mask on the good path: a sum is finite only if all parts are,
    # except for an overflow, which the exact test below then clears.
    if tensor.numel() and not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
        bad = ~torch.isfinite(tensor)
        if bool(bad.any()):
            rows = bad.reshape(bad.shape[0], -1).any(1).nonzero().flatten() if bad.ndim else bad
            where = f"; first in row {int(rows[0])} ({rows.numel()} rows)" if bad.ndim else ""
            raise ValueError(f"`{name}` must be finite; got NaN or infinity{where}. {advice}")
    return tensor


def check_same_device(first_name: str, first: Tensor, **others: Tensor | None) -> None:
    """Refuse tensors that are not on the device of `first`."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != first.device:
            raise ValueError(
                f"`{name}` must be on the device of `{first_name}` ({first.device}); "
                f"got {tensor.device}."
            )


def near_matches(word: str, known: Sequence[str], n: int = 3) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` for close spellings of `word`, or an empty string."""
    import difflib

    close = difflib.get_close_matches(word, known, n=n, cutoff=0.4)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def _interval(low: int | None, high: int | None, high_name: str | None) -> str:
    if low is None and high is None:
        return ""
    left = "(-inf" if low is None else f"[{low}"
    right = "inf)" if high is None else f"{high_name or high}]"
    return f" in {left}, {right}"


def _is_scalar(value: object) -> bool:
    return isinstance(value, SupportsFloat) and getattr(value, "ndim", 0) == 0


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
