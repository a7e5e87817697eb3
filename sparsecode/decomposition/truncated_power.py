"""Sparse PCA one component at a time: truncated power iteration with deflation."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsecode.decomposition.alternating import main_direction

FIRST_STAGES = (8, 4, 2)  # multiples of the wanted number of non-zeros


@dataclass(frozen=True, eq=False)
class TruncatedPowerResult:
    """Components of exactly `n_nonzero` loadings, in the order in which they were found.

    Parameters
    ----------
    components : Tensor of shape (K, P)
        Of unit norm; zero rows where nothing was left to explain.
    residuals : list of float
        Half the squared norm of what each component left over.
    n_iter : int
        Power steps of the component that took most.
    """

    components: Tensor
    residuals: list[float]
    n_iter: int


def truncated_power(
    rows: Tensor, *, n_components: int, n_nonzero: int, max_iter: int = 1000, tol: float = 1e-9
) -> TruncatedPowerResult:
    """Maximize ``x.T S x`` over unit vectors with at most `n_nonzero` entries, deflate, repeat.

    Each step keeps the largest entries of ``S x`` and normalizes; the value never decreases. A
    component is the better of two runs: from the feature of largest variance, and from the dense
    leading direction through 8, 4 and 2 times the wanted number of entries. Its direction is then
    projected out of the data, ``S <- (I - x x.T) S (I - x x.T)``.

    Parameters
    ----------
    rows : Tensor of shape (R, P)
        Principal rows of X; ``S = rows.T @ rows`` is never formed.
    n_components : int
    n_nonzero : int
        Entries of each component, at most P.
    max_iter : int, default=1000
        Power steps of one run at most.
    tol : float, default=1e-9
        A run ends when a step raises the value by less than this share of it.

    Returns
    -------
    TruncatedPowerResult

    References
    ----------
    Yuan & Zhang (2013), "Truncated power method for sparse eigenvalue problems", algorithm 1 and
    section 4 on starts. arXiv:1112.2679. Mackey (2008), "Deflation methods for sparse PCA", eq.
    (2).

    Examples
    --------
    >>> rows = torch.tensor([[3.0, 3.0, 0.1, 0.0], [0.0, 0.1, 1.0, 1.0]])
    >>> truncated_power(rows, n_components=2, n_nonzero=2).components.abs().round(decimals=2)
    tensor([[0.7100, 0.7100, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.7100, 0.7100]])
    """
    components = rows.new_zeros(n_components, rows.shape[1])
    total = float(rows.square().sum())
    residuals, longest = [], 1
    for j in range(n_components):
        if float(rows.square().sum()) > torch.finfo(rows.dtype).eps * total:
            runs = [_run(rows, stages, x, max_iter, tol) for stages, x in _starts(rows, n_nonzero)]
            components[j], _, n_iter = max(runs, key=lambda run: run[1])
            rows = rows - torch.outer(rows @ components[j], components[j])
            longest = max(longest, n_iter)
        residuals.append(0.5 * float(rows.square().sum()))
    return TruncatedPowerResult(components, residuals, longest)


def _starts(rows: Tensor, n_nonzero: int) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the numbers of entries to go through, and where to begin."""
    largest = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
    largest[rows.square().sum(0).argmax()] = 1.0
    yield [n_nonzero], largest
    stages = [min(times * n_nonzero, rows.shape[1]) for times in FIRST_STAGES]
    yield [*stages, n_nonzero], main_direction(rows)


def _run(
    rows: Tensor, stages: list[int], x: Tensor, max_iter: int, tol: float
) -> tuple[Tensor, float, int]:
    """Return the vector, its value ``x.T S x``, and the number of steps of the last stage."""
    image, value, n_iter = rows @ x, 0.0, 0
    for n_nonzero in stages:
        last, n_iter = 0.0, 0
        while n_iter < max_iter:
            n_iter += 1
            y = rows.T @ image
            kept = y.abs().topk(n_nonzero).indices
            entries = y[kept] / y[kept].norm()
            image = rows[:, kept] @ entries
            value = float(image.square().sum())
            x = torch.zeros_like(y).index_copy(0, kept, entries)
            if value - last <= tol * value:
                break
            last = value
    return x, value, n_iter
