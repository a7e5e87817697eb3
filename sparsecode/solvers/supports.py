"""Supports of a given size: the largest entries of each row, and least squares on them."""

import torch
from torch import Tensor


def largest(z_NF: Tensor, k: int) -> Tensor:
    """Return the ids of the `k` entries of largest magnitude of each row, ascending."""
    return z_NF.abs().topk(k, dim=1).indices.sort(1).values


def fitted_on(x_ND: Tensor, dictionary_FD: Tensor, support_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least squares values on each row's support, and the residual."""
    atoms_NDK = dictionary_FD[support_NK].transpose(1, 2)
    q_NDK, r_NKK = torch.linalg.qr(atoms_NDK)
    target_NK1 = q_NDK.transpose(1, 2) @ x_ND[..., None]
    pivots = r_NKK.diagonal(dim1=1, dim2=2).abs()
    sound = pivots.amin(1) > 100 * torch.finfo(x_ND.dtype).eps * pivots.amax(1)
    safe_NKK = r_NKK.where(sound[:, None, None], torch.eye(r_NKK.shape[1]).to(r_NKK))
    values_NK = torch.linalg.solve_triangular(safe_NKK, target_NK1, upper=True)[..., 0]
    if not bool(sound.all()):  # atoms that depend on each other: the smallest solution
        few = ~sound
        values_NK[few] = (torch.linalg.pinv(atoms_NDK[few]) @ x_ND[few, :, None])[..., 0]
    residual_ND = x_ND - (atoms_NDK @ values_NK[..., None])[..., 0]
    return values_NK, residual_ND
