"""Thresholds: which entries are large enough to stay in the code."""

import torch
from torch import Tensor

from sparsecode._checks import check_floating
from sparsecode._impl import Impl, choose_impl
from sparsecode.codes import SparseCodes
from sparsecode.ops.activation import reference


def threshold(x: Tensor, theta: float | Tensor, *, impl: Impl = "auto") -> SparseCodes:
    """Keep the entries that are strictly larger than a threshold.

    ``a = x * 1[x > theta]``, the inference form of JumpReLU and BatchTopK. NaN is never kept.

    Parameters
    ----------
    x : Tensor of shape (..., F), floating
    theta : float, or Tensor of shape () or (F,)
        One threshold, or one for each latent.
    impl : {"auto", "reference"}, default="auto"

    Returns
    -------
    SparseCodes of shape (..., F)
        Ragged rows, ids ascending. Differentiable in `x` on the entries kept; `theta` gets no
        gradient.

    References
    ----------
    Rajamanoharan et al. (2024), "Jumping Ahead", eq. (2). arXiv:2407.14435.

    Examples
    --------
    >>> threshold(torch.tensor([[1.0, 3.0, 2.0]]), 1.5).indices
    tensor([1, 2])
    """
    x = check_floating("x", x)
    if x.ndim == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"`x` must have shape (..., n_latents) with n_latents >= 1; got {tuple(x.shape)}."
        )
    width = x.shape[-1]
    limit = torch.as_tensor(theta, dtype=x.dtype, device=x.device)
    if limit.shape not in ((), (width,)):
        raise ValueError(
            f"`theta` must have shape () or (n_latents,) = ({width},); got {tuple(limit.shape)}."
        )
    choose_impl("threshold", impl, (x,))
    values, ids, crow = reference.threshold(x.reshape(-1, width), limit)
    return SparseCodes._trusted(values, ids, width, crow, tuple(x.shape[:-1]))
