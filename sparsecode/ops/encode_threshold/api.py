"""Encoding with thresholds: a linear map, a bias and the entries that are large enough."""

import torch
from torch import Tensor

from sparsecode._checks import check_floating, check_last_dim, check_same_device, check_shape
from sparsecode._impl import Impl, choose_impl
from sparsecode.codes import SparseCodes
from sparsecode.ops._row_gradient import row_gradient_of
from sparsecode.ops.encode_threshold import cpu, reference


def encode_threshold(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor | None,
    theta: float | Tensor,
    *,
    pre_bias: Tensor | None = None,
    impl: Impl = "auto",
) -> SparseCodes:
    """Keep the pre-activations ``z = (x - pre_bias) @ W_enc + b_enc`` larger than a threshold.

    Equals ``threshold(z, theta)``; on the CPU ``z`` is made for some rows at a time.

    Parameters
    ----------
    x : Tensor of shape (..., D), floating
    W_enc : Tensor of shape (D, F)
    b_enc : Tensor of shape (F,) or None
    theta : float, or Tensor of shape () or (F,)
        One threshold, or one for each latent; an entry equal to it is not kept.
    pre_bias : Tensor of shape (D,) or None, default=None
        Subtracted from `x` first.
    impl : {"auto", "reference", "cpu"}, default="auto"

    Returns
    -------
    SparseCodes of shape (..., F)
        Ragged rows, ids ascending. Differentiable in all but `theta`.

    Raises
    ------
    ValueError
        If shapes disagree.
    NotImplementedError
        If the named implementation does not serve this call; the message says why.

    References
    ----------
    Rajamanoharan et al. (2024), "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU
    Sparse Autoencoders". arXiv:2407.14435.

    Examples
    --------
    >>> encode_threshold(torch.tensor([[1.0, 3.0]]), torch.eye(2), None, 1.0).indices
    tensor([1])
    """
    x, W_enc = check_floating("x", x), check_floating("W_enc", W_enc)
    check_shape("W_enc", W_enc, (None, None), ("n_features", "n_latents"))
    n_features, width = W_enc.shape
    check_last_dim("x", x, n_features, "n_features")
    limit = torch.as_tensor(theta, dtype=W_enc.dtype, device=W_enc.device).detach()
    if limit.ndim:
        check_shape("theta", limit, (width,), ("n_latents",))
    if b_enc is not None:
        check_shape("b_enc", b_enc, (width,), ("n_latents",))
    if pre_bias is not None:
        check_shape("pre_bias", pre_bias, (n_features,), ("n_features",))
    check_same_device("x", x, W_enc=W_enc, b_enc=b_enc, pre_bias=pre_bias)
    x_ND = x.reshape(-1, n_features)
    chosen = choose_impl(
        "encode_threshold", impl, (x, W_enc), cpu=lambda: cpu.supports(x_ND, W_enc)
    )
    if chosen == "reference":
        found = reference.encode_threshold(x_ND, W_enc, b_enc, limit, pre_bias)
    else:
        collector = row_gradient_of(W_enc)
        found = cpu.EncodeThreshold.apply(x_ND, W_enc, b_enc, limit, pre_bias, collector)
    values, ids, crow = found
    return SparseCodes._trusted(values, ids, width, crow, tuple(x.shape[:-1]))
