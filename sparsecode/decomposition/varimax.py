"""Varimax rotation: the start from which sparse PCA needs the fewest iterations."""

import torch
from torch import Tensor


def varimax(loadings: Tensor, *, max_iter: int = 100, tol: float = 1e-6) -> Tensor:
    """Rotate loadings so that the variance of their squares is largest.

    The rotated rows span the same subspace and reproduce the data equally well, but
    each has few large entries.

    Parameters
    ----------
    loadings : Tensor of shape (K, P)
    max_iter : int, default=100
    tol : float, default=1e-6
        Relative change of the criterion that ends the iteration.

    Returns
    -------
    Tensor of shape (K, P)

    References
    ----------
    Kaiser (1958), "The varimax criterion for analytic rotation in factor analysis". Iterated as in
    Jennrich (2001), "A simple general procedure for orthogonal rotation", section 3.

    Examples
    --------
    >>> mixed = torch.tensor([[0.8, 0.8, 0.6, 0.6], [0.6, 0.6, -0.8, -0.8]])
    >>> varimax(mixed).abs().round(decimals=2)
    tensor([[1., 1., 0., 0.],
            [0., 0., 1., 1.]])
    """
    rotated, best = loadings, _criterion(loadings)
    # Shifted by three times this, the criterion is convex and a step cannot overshoot.
    longest = float(torch.linalg.matrix_norm(loadings, 2)) ** 2 / loadings.shape[1]
    for _ in range(max_iter):
        for shift in (0.0, 0.3 * longest, 3 * longest):
            proposed = _turned(rotated, loadings, shift)
            value = _criterion(proposed)
            if value > best * (1 + tol):
                break
        else:
            break
        rotated, best = proposed, value
    return rotated


def _turned(rotated: Tensor, loadings: Tensor, shift: float) -> Tensor:
    """Return the rotation of `loadings` that goes along the gradient of the criterion."""
    means = rotated.square().mean(1, keepdim=True)
    left, _, right = torch.linalg.svd((rotated**3 + (shift - means) * rotated) @ loadings.T)
    return left @ right @ loadings


def _criterion(loadings: Tensor) -> float:
    squares = loadings.square()
    return float((squares.square().sum(1) - squares.sum(1).square() / loadings.shape[1]).sum())
