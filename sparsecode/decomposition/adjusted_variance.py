"""How much variance correlated components explain together, and their order and signs."""

import torch
from torch import Tensor


def adjusted_variance(rows: Tensor, components: Tensor) -> tuple[Tensor, Tensor]:
    """Order components by the variance that each adds to those before it.

    With ``Z = X components.T = Q T`` (QR decomposition), component j adds ``T[j, j] ** 2``: scores
    of sparse components are correlated, and the plain sum of their variances counts shared parts
    twice. The order is that of QR with column pivoting: each next component is the one that adds
    most, so the adjusted variances never increase.

    Parameters
    ----------
    rows : Tensor of shape (R, P)
        Principal rows of X.
    components : Tensor of shape (K, P)
        Of unit norm.

    Returns
    -------
    order : Tensor of shape (K,), int64
        Components, the one that explains most first.
    variances : Tensor of shape (K,)
        Squared diagonal of T in that order: adjusted sums of squares, to be divided by ``n - 1``.

    References
    ----------
    Zou, Hastie & Tibshirani (2006), "Sparse principal component analysis", section 3.4. The order
    is ours.

    Examples
    --------
    >>> rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> order, variances = adjusted_variance(rows, torch.tensor([[0.0, 1.0], [0.6, 0.8]]))
    >>> order.tolist(), [round(v, 2) for v in variances.tolist()]
    ([1, 0], [2.08, 0.69])
    """
    # Pivoted Cholesky of Z.T @ Z has the diagonal of the pivoted QR of Z.
    scores = components @ rows.T
    remaining = scores @ scores.T
    left = remaining.diagonal().clone()
    negligible = float(left.max()) * left.numel() * torch.finfo(rows.dtype).eps
    order, variances = [], []
    for _ in range(components.shape[0]):
        j = int(left.argmax())
        variance = remaining[j, j].clamp(min=0.0)
        order.append(j)
        variances.append(variance)
        if float(variance) > negligible:
            remaining = remaining - torch.outer(remaining[j], remaining[j]) / variance
        left = remaining.diagonal().clone()
        left[order] = -torch.inf
    return torch.tensor(order, device=rows.device), torch.stack(variances)


def with_stable_signs(components: Tensor) -> Tensor:
    """Flip components so that the entry of largest size, the first of equal ones, is positive."""
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    # Adding 0 turns -0.0 into 0.0.
    return components * torch.where(largest < 0, -1.0, 1.0).to(components.dtype) + 0.0
