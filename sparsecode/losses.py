"""Loss terms that several trainable parts share."""

import torch
from torch import Tensor

from sparsecode._checks import check_int, check_last_dim, check_shape
from sparsecode.ops._row_gradient import RowGradient, row_gradient_of
from sparsecode.ops.selection import topk

CHUNK_ENTRIES = 1 << 21  # pre-activations of dead latents held at a time


def auxk_loss(
    x: Tensor,
    residual: Tensor,
    W_enc: Tensor,
    b_enc: Tensor | None,
    W_dec: Tensor,
    *,
    dead_latents: Tensor,
    k_aux: int,
) -> Tensor:
    """Let dead latents explain what the living ones left over (AuxK).

    ``mean over rows of ||e - a W_dec||^2`` with ``e`` the detached residual and ``a`` the `k_aux`
    largest positive pre-activations ``relu(x W_enc + b_enc)`` among the dead latents. Only
    the sub-dictionary of dead latents is read; no (N, F) matrix is made.

    Parameters
    ----------
    x : Tensor of shape (N, D)
        Encoder input, pre-bias already subtracted. Gets no gradient.
    residual : Tensor of shape (N, D)
        Target minus reconstruction of the main code. Gets no gradient. Its width is that of
        `W_dec`, which need not be that of `x`.
    W_enc : Tensor of shape (D, F)
    b_enc : Tensor of shape (F,) or None
    W_dec : Tensor of shape (F, D)
    dead_latents : Tensor of shape (F,), bool
    k_aux : int >= 1
        Number of dead latents that may speak; all of them if fewer are dead.

    Returns
    -------
    Tensor, scalar
        0 if no latent is dead. Differentiable in `W_enc`, `b_enc` and `W_dec`.

    References
    ----------
    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", appendix A.2. arXiv:2406.04093.
    The residual is detached and no decoder bias enters on either side.

    Examples
    --------
    >>> x, W = torch.eye(2), torch.eye(2)
    >>> float(auxk_loss(x, x, W, None, W, dead_latents=torch.tensor([True, False]), k_aux=1))
    0.5
    """
    check_int("k_aux", k_aux, low=1)
    check_shape("dead_latents", dead_latents, (W_dec.shape[0],), ("n_latents",))
    check_last_dim("x", x, W_enc.shape[0], "n_features")
    check_shape("residual", residual, (x.shape[0], W_dec.shape[1]), ("n_rows", "n_features"))
    dead = dead_latents.nonzero().flatten()
    if not dead.numel() or not x.shape[0]:
        return x.new_zeros(())
    collectors = (row_gradient_of(W_enc), row_gradient_of(W_dec))
    x, residual = (part.detach().to(W_enc.dtype) for part in (x, residual))
    k_aux = min(k_aux, dead.numel())
    with torch.autocast(x.device.type, enabled=False):  # in-place sums would mix dtypes
        return _AuxK.apply(x, residual, W_enc, b_enc, W_dec, dead, k_aux, collectors)


class _AuxK(torch.autograd.Function):
    """The loss and its gradients in one pass over chunks of rows, on the dead sub-dictionary."""

    @staticmethod
    def forward(ctx, x_ND, residual_ND, W_enc, b_enc, W_dec, dead, k_aux, collectors):
        encoder, decoder = W_enc.detach().t()[dead], W_dec.detach()[dead]
        bias = None if b_enc is None else b_enc.detach()[dead]
        grad_encoder, grad_decoder = torch.zeros_like(encoder), torch.zeros_like(decoder)
        grad_bias = encoder.new_zeros(len(dead))
        total = encoder.new_zeros((), dtype=torch.float64)
        n_rows = x_ND.shape[0]
        for x, e in zip(
            *(t.split(max(1, CHUNK_ENTRIES // len(dead))) for t in (x_ND, residual_ND)), strict=True
        ):
            code = _positive_topk(
                x @ encoder.t() if bias is None else torch.addmm(bias, x, encoder.t()), k_aux
            )
            error = torch.addmm(e, code, decoder, beta=-1)
            total += error.square().sum(dtype=torch.float64)
            error *= 2.0 / n_rows
            grad_decoder.addmm_(code.t(), error)
            grad_code = (error @ decoder.t()).mul_(code > 0)
            grad_encoder.addmm_(grad_code.t(), x)
            grad_bias += grad_code.sum(0)
        ctx.save_for_backward(grad_encoder, grad_bias, grad_decoder, dead)
        ctx.collectors, ctx.width = collectors, W_dec.shape[0]
        return (total / n_rows).to(x_ND.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        grad_encoder, grad_bias, grad_decoder, dead = ctx.saved_tensors
        out: list[Tensor | None] = [None] * 8
        to_encoder, to_decoder = ctx.collectors
        if ctx.needs_input_grad[2]:
            rows = _deliver(to_encoder, dead, grad_encoder * grad, ctx.width)
            out[2] = None if rows is None else rows.t()
        if ctx.needs_input_grad[3]:
            out[3] = grad_bias.new_zeros(ctx.width).index_copy(0, dead, grad_bias * grad)
        if ctx.needs_input_grad[4]:
            out[4] = _deliver(to_decoder, dead, grad_decoder * grad, ctx.width)
        return tuple(out)


def _positive_topk(z: Tensor, k_aux: int) -> Tensor:
    """Return the (n, n_dead) code: the k largest entries of each row where they are positive."""
    if k_aux == z.shape[1]:
        return z.relu_()
    codes = topk(z, k_aux)
    return torch.zeros_like(z).scatter_(1, codes.indices, codes.values.relu())


def _deliver(
    collector: RowGradient | None, dead: Tensor, rows: Tensor, width: int
) -> Tensor | None:
    """Hand gradient rows of the dead latents to an optimizer's collector, or return them dense."""
    if collector is None:
        return rows.new_zeros(width, rows.shape[1]).index_copy(0, dead, rows)
    places = torch.arange(len(dead), device=rows.device)
    collector.add(dead, places, rows.new_ones(len(dead)), rows)
    return None


def outer_product_energy(
    coefficients: Tensor, left: Tensor, right: Tensor, *, importance: Tensor | None = None
) -> Tensor:
    """Return the mean over rows of ``||sum_j g_j left_j (x) right_j||^2``, in memory linear in F.

    The kernel trick: with ``K = (left left^T) * (right right^T)`` the squared Frobenius norm is
    ``g^T K g``, so that no (D, D) matrix is made. K is gone through in blocks of rows; the
    gradients come from the same pass.

    Parameters
    ----------
    coefficients : Tensor of shape (N, F)
        The weights g of each row.
    left, right : Tensor of shape (F, D)
    importance : Tensor of shape (F,), non-increasing, or None, default=None
        Entries of K are weighted by the smaller importance of their row and column. With
        ``(F - j) / F`` for the latent j = 0, 1, ... the result is the mean of the energies of the
        first 1, 2, ..., F terms.

    Returns
    -------
    Tensor, scalar
        0 for no rows. Differentiable once in `coefficients`, `left` and `right`.

    References
    ----------
    Dooms & Gauderis (2025), "Finding Manifolds With Bilinear Autoencoders". arXiv:2510.16820.

    Examples
    --------
    >>> float(outer_product_energy(torch.tensor([[3.0]]), torch.eye(1, 2), torch.ones(1, 2)))
    18.0
    """
    check_last_dim("coefficients", coefficients, left.shape[0], "n_latents")
    check_shape("right", right, tuple(left.shape), ("n_latents", "n_features"))
    if importance is not None:
        check_shape("importance", importance, (left.shape[0],), ("n_latents",))
    with torch.autocast(left.device.type, enabled=False):
        return _OuterProductEnergy.apply(coefficients.to(left.dtype), left, right, importance)


class _OuterProductEnergy(torch.autograd.Function):
    """The energy and its gradients from one pass over blocks of rows of the kernel."""

    @staticmethod
    def forward(ctx, g_NF, left, right, importance):
        g_NF, left, right = g_NF.detach(), left.detach(), right.detach()
        width, scale = left.shape[0], 1.0 / max(1, len(g_NF))
        total = left.new_zeros((), dtype=torch.float64)
        wanted = any(ctx.needs_input_grad)
        grads = [torch.empty_like(part) for part in (g_NF, left, right)] if wanted else []
        step = max(1, CHUNK_ENTRIES // width)
        for start in range(0, width, step):
            block = slice(start, start + step)
            of_left, of_right = left[block] @ left.t(), right[block] @ right.t()
            moments = g_NF[:, block].t() @ g_NF
            kernel = of_left * of_right
            if importance is not None:
                smaller = torch.minimum(importance[block, None], importance)
                kernel *= smaller
                moments *= smaller
            total += (of_left * of_right).mul_(moments).sum(dtype=torch.float64)
            if grads:
                grads[0][:, block] = g_NF @ kernel.t()
                grads[1][block] = of_right.mul_(moments) @ left
                grads[2][block] = of_left.mul_(moments) @ right
        ctx.save_for_backward(*(grad.mul_(2.0 * scale) for grad in grads))
        return (total * scale).to(left.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return *(part * grad for part in ctx.saved_tensors), None


def hoyer_density(activations: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Return the mean over latents of their Hoyer density over the rows of a batch.

    ``(||a||_1 / ||a||_2 - 1) / (sqrt(N) - 1)`` for the N values ``a`` of a latent: 0 if it has a
    value on one row only, 1 if all its values have the same size.

    Parameters
    ----------
    activations : Tensor of shape (N, F)
    weights : Tensor of shape (F,) or None, default=None
        Of the latents in the mean; None weighs all alike.

    Returns
    -------
    Tensor, scalar
        0 for fewer than two rows. A latent that is 0 throughout has density 0.

    References
    ----------
    Hoyer (2004), "Non-negative matrix factorization with sparseness constraints". Per latent over
    a batch: Dooms & Gauderis (2025), arXiv:2510.16820.

    Examples
    --------
    >>> round(float(hoyer_density(torch.tensor([[3.0, 1.0], [0.0, -1.0]]))), 4)
    0.5
    """
    n_rows = activations.shape[0]
    if n_rows < 2:
        return activations.new_zeros(()) * activations.sum()
    largest = activations.detach().abs().amax(0)
    scaled = activations / torch.where(largest > 0, largest, 1.0)
    norms = torch.linalg.vector_norm(torch.where(largest > 0, scaled, 1.0), dim=0)
    density = ((scaled.abs().sum(0) / norms) - 1.0).clamp(min=0) / (n_rows**0.5 - 1.0)
    return density.mean() if weights is None else (density * weights).sum() / weights.sum()
