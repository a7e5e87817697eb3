"""Matrices that users give: checks, and codes and reconstructions of some rows at a time."""

from collections.abc import Iterator
from typing import Any

import scipy.sparse
import torch
from torch import Tensor

from sae.autoencoders import AbstractAutoencoder
from sparsecode import SparseCodes
from sparsecode._checks import check_finite
from sparsecode.training import RowSource
from sparsecode.training.array_rows import ArrayRows

CHUNK_ENTRIES = 1 << 24  # of inputs or pre-activations that are held at a time
LARGEST = 1e15  # sums of squares still fit into float32, in which the weights are
ALIGNED_ROWS = 16  # for fewer rows, matrix products may take another kernel and round differently


def _spans(n_rows: int, *widths: int) -> Iterator[tuple[int, int]]:
    """Yield runs of rows of which a dense matrix of any of the widths may be held."""
    size = max(ALIGNED_ROWS, CHUNK_ENTRIES // max(widths))
    for start in range(0, n_rows, size):
        yield start, min(start + size, n_rows)


@torch.no_grad()
def encoded_parts(module: AbstractAutoencoder, source: RowSource) -> Iterator[SparseCodes]:
    """Yield the codes of runs of rows.

    Parameters
    ----------
    module : AbstractAutoencoder
    source : RowSource
        With `module.n_features` columns.
    """
    for start, stop in _spans(source.n_rows, module.n_features, module.n_latents):
        rows = source.rows(start, stop).to(module.b_dec.device)
        missing = max(0, ALIGNED_ROWS - len(rows))
        padded = torch.nn.functional.pad(rows, (0, 0, 0, missing))
        # Contiguous: data frames hold columns together, which would round differently too.
        yield module.encode(padded.contiguous())[: len(rows)]


@torch.no_grad()
def predicted_parts(module: AbstractAutoencoder, source: RowSource) -> Iterator[Tensor]:
    """Yield what the module makes of runs of rows.

    Parameters
    ----------
    module : AbstractAutoencoder
    source : RowSource
        With `module.n_features` columns.
    """
    for start, stop in _spans(source.n_rows, module.n_features, module.n_latents):
        yield module(source.rows(start, stop).to(module.b_dec.device))


@torch.no_grad()
def decoded_parts(module: AbstractAutoencoder, codes: Any) -> Iterator[Tensor]:
    """Yield the reconstructions from runs of rows of codes.

    Parameters
    ----------
    module : AbstractAutoencoder
    codes : array, CSR matrix or Tensor of shape (N, F)
    """
    device = module.b_dec.device
    for start, stop in _spans(codes.shape[0], module.n_features, module.n_latents):
        if scipy.sparse.issparse(codes):
            part = SparseCodes.from_scipy(codes[start:stop], device=device)
        else:
            dense = ArrayRows(codes).rows(start, stop).to(device)
            latents = torch.arange(dense.shape[1], device=device).expand_as(dense)
            part = SparseCodes(dense, latents, dense.shape[1]).to_ragged()
        yield module.decode(part)


def fill(out: Tensor, parts: Iterator[Tensor]) -> None:
    """Write runs of rows one after the other.

    Parameters
    ----------
    out : Tensor of shape (N, ...)
    parts : iterator of Tensor
        N rows together.
    """
    start = 0
    for part in parts:
        out[start : start + len(part)] = part
        start += len(part)


def checked_tensor(X: Tensor, name: str = "X", columns: str = "n_features") -> Tensor:
    """Return a matrix as a detached floating tensor of finite numbers.

    Parameters
    ----------
    X : Tensor
    name, columns : str
        Named in errors.
    """
    if X.ndim != 2 or 0 in X.shape or X.is_complex():
        raise ValueError(
            f"`{name}` must be a real tensor of shape (n_samples, {columns}) with at least one row "
            f"and column; got shape {tuple(X.shape)}, dtype {str(X.dtype).removeprefix('torch.')}."
        )
    X = X.detach()
    return check_finite(name, X if X.is_floating_point() else X.float())


def checked_size(name: str, X: Any) -> Any:
    """Return a finite matrix if its entries are small enough for training.

    Parameters
    ----------
    name : str
        Named in the error.
    X : array, CSR matrix or Tensor
    """
    entries = X.data if scipy.sparse.issparse(X) else X
    if 0 in entries.shape:  # a sparse matrix of zeros
        return X
    largest = max(float(entries.max()), -float(entries.min()))
    if largest > LARGEST:
        raise ValueError(
            f"`{name}` must have entries of at most {LARGEST:g} in size, since weights are in "
            f"float32; got {largest:g}. Rescale the data."
        )
    return X
