"""Sparse PCA by alternating elastic nets, the objective of `sklearn.decomposition.SparsePCA`."""

import torch
from torch import Tensor

from sparsecode.decomposition.alternating import AlternatingResult, alternate


def alternating_elastic_net(
    rows: Tensor,
    start: Tensor,
    *,
    alpha: float,
    l2: float = 0.0,
    n_nonzero: int | None = None,
    max_iter: int = 1000,
    tol: float = 1e-5,
) -> AlternatingResult:
    """Minimize ``1/2 ||X - U V||^2 + alpha ||V||_1 + l2/2 ||V||^2``, columns of U in the unit ball.

    An iteration sweeps once over the rows of V, exact per row: one step updates one component in
    all features at once, on the (K, K) Gram matrix of the scores.

    Parameters
    ----------
    rows : Tensor of shape (R, P)
        Principal rows of X.
    start : Tensor of shape (K, P)
        Loadings to start from.
    alpha : float >= 0
        Weight of the l1 norm. Not used with `n_nonzero`.
    l2 : float >= 0, default=0.0
        Weight of half the squared l2 norm.
    n_nonzero : int or None, default=None
        Keep exactly that many loadings of each component, the largest, instead of the l1 norm.
    max_iter : int, default=1000
    tol : float, default=1e-5

    Returns
    -------
    AlternatingResult

    References
    ----------
    Zou, Hastie & Tibshirani (2006), "Sparse principal component analysis", section 3 (elastic net
    for the loadings, then the scores). Jenatton, Obozinski & Bach (2010), "Structured sparse
    principal component analysis", for the constraint on U, which scikit-learn shares.

    Examples
    --------
    >>> rows = torch.tensor([[3.0, 3.0, 0.1, 0.0], [0.0, 0.1, 1.0, 1.0]])
    >>> result = alternating_elastic_net(rows, rows.clone(), alpha=0.2)
    >>> (result.loadings != 0).int().tolist()
    [[1, 1, 0, 0], [0, 0, 1, 1]]
    """

    def code_step(loadings: Tensor, gram: Tensor, correlation: Tensor) -> Tensor:
        return _sweep(loadings, gram, correlation, alpha, l2, n_nonzero)

    def penalty(loadings: Tensor) -> Tensor:
        l1 = 0.0 if n_nonzero is not None else alpha * loadings.abs().sum()
        return l1 + 0.5 * l2 * loadings.square().sum()

    return alternate(rows, start, code_step, penalty, max_iter=max_iter, tol=tol)


def keep_largest(x: Tensor, k: int) -> Tensor:
    """Set all but the `k` entries of each row that are largest in size to zero."""
    kept = x.abs().topk(min(k, x.shape[-1])).indices
    return torch.zeros_like(x).scatter(-1, kept, x.gather(-1, kept))


def _sweep(
    loadings: Tensor,
    gram: Tensor,
    correlation: Tensor,
    alpha: float,
    l2: float,
    n_nonzero: int | None,
) -> Tensor:
    loadings = loadings.clone()
    weights = gram.diagonal()
    # With a zero diagonal, the product with all rows leaves out the row that is replaced.
    others = (gram - weights.diag()).unbind()
    for j, weight in enumerate(weights.tolist()):
        if weight + l2 == 0:
            loadings[j] = 0
            continue
        target = torch.addmv(correlation[j], loadings.T, others[j], alpha=-1)
        if n_nonzero is None:
            kept = torch.nn.functional.softshrink(target, alpha)
        else:
            kept = keep_largest(target, n_nonzero)
        torch.div(kept, weight + l2, out=loadings[j])
    return loadings
