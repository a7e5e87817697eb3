"""Sparse PCA by alternating proximal gradient steps, for any penalty on the loadings."""

import torch
from torch import Tensor

from sparsecode.decomposition.alternating import AlternatingResult, alternate
from sparsecode.decomposition.elastic_net import keep_largest
from sparsecode.penalties import AbstractPenalty

STEPS = 5


def alternating_proximal_gradient(
    rows: Tensor,
    start: Tensor,
    *,
    penalty: AbstractPenalty | None = None,
    n_nonzero: int | None = None,
    max_iter: int = 1000,
    tol: float = 1e-5,
) -> AlternatingResult:
    """Minimize ``1/2 ||X - U V||^2 + penalty(V)``, columns of U in the unit ball.

    A step moves all loadings along the negative gradient with step ``1 / ||U.T U||`` and applies
    the proximal operator, so the penalty may be non-convex; five steps follow each other on the
    same scores.

    Parameters
    ----------
    rows : Tensor of shape (R, P)
        Principal rows of X.
    start : Tensor of shape (K, P)
        Loadings to start from.
    penalty : AbstractPenalty or None, default=None
        None only with `n_nonzero`.
    n_nonzero : int or None, default=None
        Keep exactly that many loadings of each component instead: the proximal operator of that
        constraint.
    max_iter : int, default=1000
    tol : float, default=1e-5

    Returns
    -------
    AlternatingResult

    References
    ----------
    Bolte, Sabach & Teboulle (2014), "Proximal alternating linearized minimization for nonconvex and
    nonsmooth problems", section 3. Differs from it in the exact updates of U.

    Examples
    --------
    >>> from sparsecode.penalties import L1
    >>> rows = torch.tensor([[3.0, 3.0, 0.1, 0.0], [0.0, 0.1, 1.0, 1.0]])
    >>> result = alternating_proximal_gradient(rows, rows.clone(), penalty=L1(0.2))
    >>> (result.loadings != 0).int().tolist()
    [[1, 1, 0, 0], [0, 0, 1, 1]]
    """

    def prox(z: Tensor, step: float) -> Tensor:
        if penalty is not None:
            return penalty.prox(z, step)
        assert n_nonzero is not None
        return keep_largest(z, n_nonzero)

    def code_step(loadings: Tensor, gram: Tensor, correlation: Tensor) -> Tensor:
        step = 1 / max(float(torch.linalg.eigvalsh(gram)[-1]), torch.finfo(gram.dtype).tiny)
        for _ in range(STEPS):
            loadings = prox(loadings - step * (gram @ loadings - correlation), step)
        return loadings

    def value(loadings: Tensor) -> Tensor:
        return penalty.value(loadings) if penalty is not None else loadings.new_zeros(())

    return alternate(rows, start, code_step, value, max_iter=max_iter, tol=tol)
