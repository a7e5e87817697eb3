"""Weights out of files of others: tensors and plain values only, and nothing in them is run."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sparsecode.io import CorruptFileError

MAX_JSON = 16 << 20


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises
    ------
    sparsecode.io.CorruptFileError
        If the file is not one, or larger than any configuration.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError("it is larger than 16 MiB")
        value = json.loads(path.read_bytes().decode())
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, "a JSON object", error) from None
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, "the tensors of a safetensors file", error) from None


def read_torch(path: Path) -> dict[str, Any]:
    """Return a state dict that ``torch.save`` wrote, with tensors and plain values only.

    Objects of any other kind are refused before they are made: loading runs no code of the file.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise _unreadable(path, "tensors and plain values only, as torch.save writes", error) from (
            None
        )
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _unreadable(path, "a state dict", f"it holds a {type(value).__name__}")
    return dict(value)


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a NumPy archive; objects, which would be unpickled, are refused."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is one array, not an archive of several")
        with loaded as file:
            return {name: torch.from_numpy(np.ascontiguousarray(file[name])) for name in file.files}
    except Exception as error:
        raise _unreadable(path, "plain arrays in a NumPy archive", error) from None


def _unreadable(path: Path, what: str, error: object) -> CorruptFileError:
    fact = str(error).partition("\n")[0].rstrip(".")[:200]
    return CorruptFileError(
        f"`{path}` must hold {what}; it does not ({fact}). Nothing in it was run; "
        "get the file anew."
    )


def json_bytes(value: dict[str, Any]) -> bytes:
    """Return a JSON object as others write it, without a checksum."""
    return (json.dumps(value, indent=1) + "\n").encode()


def safetensors_bytes(tensors: dict[str, Tensor]) -> bytes:
    """Return a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def torch_bytes(tensors: dict[str, Tensor]) -> bytes:
    """Return a state dict as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    torch.save({name: tensor.clone() for name, tensor in plain.items()}, buffer)
    return buffer.getvalue()
