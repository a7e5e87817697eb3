"""How many directions rows fill: matrix entropy, effective rank, a surrogate of nuclear norm."""

import math

import torch
from torch import Tensor

from sparsecode._checks import check_floating, check_int


def matrix_entropy(
    rows: Tensor,
    *,
    n_eigenvalues: int | None = None,
    center: bool = True,
    unit_rows: bool = True,
    normalized: bool = False,
) -> float:
    """Return the von Neumann entropy of the covariance of representations.

    ``H = - sum_i p_i log p_i`` in nats, with ``p`` the eigenvalues of the covariance over their
    sum: 0 for rows on a line, log D for rows that fill D directions equally.

    Parameters
    ----------
    rows : Tensor or ndarray of shape (..., D)
    n_eigenvalues : int or None, default=None
        The truncated entropy: only this many of the largest p are summed, which are not normalized
        again. None sums all.
    center : bool, default=True
        Whether the mean row is taken off first.
    unit_rows : bool, default=True
        Whether rows are then brought to unit norm.
    normalized : bool, default=False
        Whether the entropy is divided by log D, for a value in [0, 1].

    Returns
    -------
    float
        0 for rows that are all equal.

    References
    ----------
    Wei et al. (2024), "Diff-eRank: A Novel Rank-Based Metric for Evaluating Large Language
    Models", sec. 3 (covariance of centered unit rows). arXiv:2401.17139. Xiong et al. (2024),
    "UNComp" (truncated). arXiv:2410.03090.

    Examples
    --------
    >>> round(matrix_entropy(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 4)
    0.6931
    """
    shares = _shares(rows, center, unit_rows)
    if n_eigenvalues is not None:
        shares = shares[: check_int("n_eigenvalues", n_eigenvalues, low=1)]
    found = float(torch.special.entr(shares).sum())
    width = torch.as_tensor(rows).shape[-1]
    return found / math.log(width) if normalized and width > 1 else found


def effective_rank(rows: Tensor, *, center: bool = True, unit_rows: bool = True) -> float:
    """Return ``exp(matrix_entropy(rows))``: how many directions rows fill.

    Parameters
    ----------
    rows : Tensor or ndarray of shape (..., D)
    center : bool, default=True
        Whether the mean row is taken off first.
    unit_rows : bool, default=True
        Whether rows are then brought to unit norm.

    Returns
    -------
    float
        Between 1 and min(N, D); 0 for rows that are all equal.

    References
    ----------
    Roy & Vetterli (2007), "The effective rank: A measure of effective dimensionality", def. 1,
    of the covariance, as in Wei et al. (2024), "Diff-eRank". arXiv:2401.17139.

    Examples
    --------
    >>> round(effective_rank(torch.eye(3), center=False), 6)
    3.0
    """
    shares = _shares(rows, center, unit_rows)
    return float(torch.special.entr(shares).sum().exp()) if bool(shares.any()) else 0.0


def nuclear_norm_surrogate(rows: Tensor) -> float:
    """Return the sum of the largest column norms, an upper bound of the nuclear norm when D <= N.

    Parameters
    ----------
    rows : Tensor or ndarray of shape (N, D)
        Of more than min(N, D) columns only that many, the largest, count.

    Returns
    -------
    float
        Equal to the nuclear norm where columns are orthogonal.

    References
    ----------
    Li et al. (2024), "Large Language Model Evaluation via Matrix Nuclear-Norm", eq. (9).
    arXiv:2410.10672. Differs from it in: no division by the length, no normalization of rows.

    Examples
    --------
    >>> nuclear_norm_surrogate(torch.diag(torch.tensor([3.0, 4.0])))
    7.0
    """
    x = _matrix(rows)
    norms = torch.linalg.vector_norm(x, dim=0)
    return float(norms.sort(descending=True).values[: min(x.shape)].sum())


def _matrix(rows: Tensor) -> Tensor:
    x = check_floating("rows", rows)
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"`rows` must have shape (..., n_features); got {tuple(x.shape)}.")
    return x.reshape(-1, x.shape[-1]).double()


def _shares(rows: Tensor, center: bool, unit_rows: bool) -> Tensor:
    """Return the eigenvalues of the covariance over their sum, descending; zeros if all are 0."""
    x = _matrix(rows)
    if center:
        x = x - x.mean(0)
    if unit_rows:
        x = torch.nn.functional.normalize(x, dim=1)
    gram = x.t() @ x if x.shape[1] <= x.shape[0] else x @ x.t()  # the same eigenvalues
    values = torch.linalg.eigvalsh(gram).clamp(min=0).flip(0)
    total = values.sum()
    return values / total if total > 0 else torch.zeros_like(values)
