"""Encoding with one selection over the whole batch, without the (N, F) pre-activations."""

import math

import torch
from torch import Tensor

from sparsecode._checks import check_float, check_floating, check_last_dim
from sparsecode.codes import SparseCodes
from sparsecode.ops.encode import encode_topk
from sparsecode.ops.selection import batch_topk

CANDIDATES = 4  # looked at first in each row, as a multiple of k; and the growth where they end


def encode_batch_topk(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor | None,
    k: float,
    *,
    pre_bias: Tensor | None = None,
) -> SparseCodes:
    """Keep the ``int(k * N)`` largest positive pre-activations of the whole batch.

    Equals ``batch_topk(relu((x - pre_bias) @ W_enc + b_enc), k)`` without its entries of value 0.
    Candidates are the 4 k largest of each row; a row whose last candidate could still be
    chosen is encoded again with more, so the selection is exact and no row has a cap.

    Parameters
    ----------
    x : Tensor of shape (..., D), floating
        N is the product of all leading axes.
    W_enc : Tensor of shape (D, F)
    b_enc : Tensor of shape (F,) or None
    k : int or float in (0, F]
    pre_bias : Tensor of shape (D,) or None, default=None
        Subtracted from `x` first.

    Returns
    -------
    SparseCodes of shape (..., F)
        Ragged rows, descending within each. Differentiable in `x`, `W_enc`, `b_enc` and `pre_bias`;
        the selection counts as constant.

    Raises
    ------
    ValueError
        If shapes disagree or `k` is not in (0, F].

    References
    ----------
    Bussmann, Leask & Nanda (2024), "BatchTopK Sparse Autoencoders". arXiv:2412.06410.

    Examples
    --------
    >>> x = torch.tensor([[5.0, 4.0], [1.0, -3.0]])
    >>> encode_batch_topk(x, torch.eye(2), None, 1).n_active
    tensor([2, 0])
    """
    x = check_floating("x", x)
    k = check_float("k", k, low=0.0, open_low=True, high=W_enc.shape[-1])
    check_last_dim("x", x, W_enc.shape[0], "n_features")
    x_ND, width = x.reshape(-1, x.shape[-1]), W_enc.shape[-1]
    total, size = int(k * x_ND.shape[0]), min(width, math.ceil(CANDIDATES * k))

    def encode(rows: Tensor, size: int) -> SparseCodes:
        return encode_topk(rows, W_enc, b_enc, size, pre_bias=pre_bias)

    found = encode(x_ND, size)
    last, codes = found.values.detach()[:, -1], found.to_ragged()
    while size < width:
        limit = _smallest_chosen(codes.values.detach(), total)
        is_open = (last > 0) & (last >= limit)
        rows = is_open.nonzero().flatten()
        if not rows.numel():
            break
        size = min(width, CANDIDATES * size)
        found = encode(x_ND[rows], size)
        codes = _replaced(codes, rows, found.to_ragged())
        last = last.index_copy(0, rows, found.values.detach()[:, -1])
    return _largest(codes, total).reshape(*x.shape[:-1])


def _smallest_chosen(values: Tensor, total: int) -> Tensor:
    """Return the `total`-th largest candidate, or 0 if there are fewer; no later one is smaller."""
    if total == 0:
        return values.new_tensor(math.inf)
    if values.numel() < total:
        return values.new_zeros(())
    return batch_topk(values[None], total).values.amin()


def _replaced(codes: SparseCodes, rows: Tensor, by: SparseCodes) -> SparseCodes:
    """Return `codes` with the rows `rows` replaced."""
    source = torch.arange(codes.n_rows, device=codes.device)
    source[rows] = codes.n_rows + torch.arange(len(rows), device=codes.device)
    return SparseCodes.cat([codes, by])[source]


def _largest(codes: SparseCodes, total: int) -> SparseCodes:
    """Keep the `total` largest entries of all; ties go to the lower row, then to the lower id."""
    if codes.values.numel() <= total:
        return codes
    places = codes.indices[:0]
    if total:
        # Entries stand by row, descending, ties by id: the place settles what the value does not.
        places = batch_topk(codes.values.detach()[None], total).indices.sort().values
    counts = torch.bincount(codes.row_ids()[places], minlength=codes.n_rows)
    crow = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return SparseCodes._trusted(
        codes.values[places], codes.indices[places], codes.width, crow, (codes.n_rows,)
    )
