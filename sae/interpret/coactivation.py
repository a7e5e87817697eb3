"""Co-activation: latents that fire on the same rows."""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sae.interpret.encoded import EncodedRows
from sparsecode._checks import check_int


def coactive_latents(
    encoded: EncodedRows, n: int = 6, *, max_rows: int = 20_000, chunk_size: int = 1024
) -> tuple[Tensor, Tensor]:
    """Find the latents that share the largest part of their rows with each latent.

    The part is Jaccard's: rows on which both fire over rows on which either does.

    Parameters
    ----------
    encoded : EncodedRows
    n : int, default=6
        Partners of each latent; fewer where F - 1 is smaller.
    max_rows : int, default=20_000
        Rows looked at, in blocks that are evenly spread.
    chunk_size : int, default=1024
        Latents compared at a time.

    Returns
    -------
    latents : Tensor of shape (F, n), int64
        Descending by part; -1 where a latent fires together with fewer.
    parts : Tensor of shape (F, n), float32

    Examples
    --------
    >>> import sae
    >>> from sae.cache import as_source
    >>> model = sae.TopK(n_features=8, n_latents=16, k=2, seed=0)
    >>> latents, parts = coactive_latents(EncodedRows(model, as_source(torch.eye(8))), n=3)
    >>> latents.shape, float(parts.max()) <= 1.0
    (torch.Size([16, 3]), True)
    """
    n = min(check_int("n", n, low=1), encoded.n_latents - 1)
    fired = _fired(encoded, check_int("max_rows", max_rows, low=1))
    counts = np.asarray(fired.sum(0)).ravel()
    found = torch.full((encoded.n_latents, n), -1)
    parts = torch.zeros(encoded.n_latents, n)
    columns = fired.tocsc()
    for start in range(0, encoded.n_latents, check_int("chunk_size", chunk_size, low=1)):
        both = (columns[:, start : start + chunk_size].T @ fired).tocsr()
        for row in range(both.shape[0]):
            place = slice(both.indptr[row], both.indptr[row + 1])
            others, shared = both.indices[place], both.data[place]
            part = shared / (counts[start + row] + counts[others] - shared)
            part[others == start + row] = 0
            order = np.lexsort((others, -part))[:n]
            order = order[part[order] > 0]
            found[start + row, : len(order)] = torch.from_numpy(others[order].astype(np.int64))
            parts[start + row, : len(order)] = torch.from_numpy(part[order].astype(np.float32))
    return found, parts


def _fired(encoded: EncodedRows, max_rows: int) -> sparse.csr_matrix:
    """Return which latents fire on some rows, a matrix of ones."""
    n_blocks = -(-encoded.n_rows // encoded.block_rows)
    wanted = max(1, min(n_blocks, max_rows // encoded.block_rows))
    blocks = np.unique(np.linspace(0, n_blocks - 1, wanted).round().astype(int))
    pieces = []
    for number in blocks:
        matrix = encoded.block(int(number))[:max_rows].to_scipy()
        matrix.data = (matrix.data > 0).astype(np.float32)
        matrix.eliminate_zeros()
        pieces.append(matrix)
    return sparse.csr_matrix(sparse.vstack(pieces))
