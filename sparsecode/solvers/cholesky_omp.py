"""Batched OMP on the inverse Cholesky factor of the chosen atoms' Gram matrix."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_BYTES = 1 << 20  # of (rows, atoms) worked on at a time on a CPU: they stay in its cache
LANES = 32
MOST_GRAM_ATOMS = 4096  # with more, the Gram matrix of the dictionary is not made


@dataclass(frozen=True)
class Picks:
    """Atoms chosen for each row, and what came of it."""

    chosen: Tensor
    """Ids of atoms, (N, K)."""
    values: Tensor
    """Their least squares values, (N, K); 0 where a row needed fewer."""
    sound: Tensor
    """Whether rounding cannot have harmed a row; others must be solved with more care."""
    n_done: int
    """Atoms of the row that took most."""


def cholesky_omp(x_ND: Tensor, dictionary_FD: Tensor, n_steps: int, tol: float) -> Picks:
    """Choose atoms by orthogonal matching pursuit with the normal equations of the chosen atoms.

    Squares the condition of the chosen atoms, in exchange for touching few numbers; `Picks.sound`
    says which rows are too badly conditioned, or too well explained, for that.

    References
    ----------
    Rubinstein, Zibulevsky & Elad (2008), "Efficient implementation of the K-SVD algorithm using
    batch orthogonal matching pursuit", algorithm 1. Zhu, Chen, Wu & Zheng (2020), "Efficient
    orthogonal matching pursuit implementations", for the inverse in place of triangular solves.
    """
    n_rows, n_atoms = len(x_ND), len(dictionary_FD)
    pays = n_rows >= 2 * n_atoms and n_atoms <= MOST_GRAM_ATOMS
    gram_FF = dictionary_FD @ dictionary_FD.T if pays else None
    step = n_rows if x_ND.is_cuda else max(32, BLOCK_BYTES // (n_atoms * x_ND.itemsize))
    parts = [
        _picks(rows, dictionary_FD, gram_FF, n_steps, tol) for rows in x_ND.split(max(step, 1))
    ]
    return Picks(
        torch.cat([part.chosen for part in parts]),
        torch.cat([part.values for part in parts]),
        torch.cat([part.sound for part in parts]),
        max(part.n_done for part in parts),
    )


class _Correlations:
    """Magnitude of each atom's correlation with what the chosen atoms leave of each row."""

    def __init__(self, x_ND: Tensor, dictionary_FD: Tensor, gram_FF: Tensor | None, n_steps: int):
        self.x_ND, self.dictionary_FD, self.gram_FF = x_ND, dictionary_FD, gram_FF
        self.first_NF = x_ND @ dictionary_FD.T
        n_rows, n_atoms = self.first_NF.shape
        self.padded = x_ND.new_full((n_rows, -(-n_atoms // LANES) * LANES), -1.0)
        self.now_NF = self.padded[:, :n_atoms]
        torch.abs(self.first_NF, out=self.now_NF)
        self.norms_F = dictionary_FD.square().sum(1)
        self.rows_N = torch.arange(len(x_ND), device=x_ND.device)
        self.atoms_NKD = x_ND.new_zeros(len(x_ND), n_steps, x_ND.shape[1] if gram_FF is None else 0)

    def largest(self) -> Tensor:
        """Return the first atom of largest correlation of each row: ``now_NF.argmax(1)``."""
        # In two steps, because the largest value is found many lanes at a time, its place is not.
        lanes = self.padded.view(len(self.padded), -1, LANES)
        group_N = lanes.amax(2).argmax(1)
        return group_N * LANES + lanes[self.rows_N, group_N].argmax(1)

    def products(self, chosen_Nk: Tensor, pick_N: Tensor) -> Tensor:
        """Return the products (N, k, 1) of new atoms with those chosen before."""
        k = chosen_Nk.shape[1]
        if self.gram_FF is not None:
            return self.gram_FF[chosen_Nk, pick_N[:, None]][..., None]
        self.atoms_NKD[:, k] = self.dictionary_FD[pick_N]
        return self.atoms_NKD[:, :k] @ self.atoms_NKD[:, k, :, None]

    def update(self, chosen_Nk: Tensor, values_Nk: Tensor) -> None:
        """Subtract the chosen atoms; these themselves are out of the race."""
        k = chosen_Nk.shape[1]
        if self.gram_FF is None:
            explained = (values_Nk[:, None] @ self.atoms_NKD[:, :k])[:, 0]
            torch.mm(self.x_ND - explained, self.dictionary_FD.T, out=self.now_NF)
        else:
            weights = values_Nk.reshape(-1)
            explained = functional.embedding_bag(
                chosen_Nk.reshape(-1),
                self.gram_FF,
                self.rows_N * k,
                mode="sum",
                per_sample_weights=weights,
            )
            torch.sub(self.first_NF, explained, out=self.now_NF)
        self.now_NF.abs_().scatter_(1, chosen_Nk, -1.0)


def _picks(
    x_ND: Tensor, dictionary_FD: Tensor, gram_FF: Tensor | None, n_steps: int, tol: float
) -> Picks:
    n_rows = len(x_ND)
    correlations = _Correlations(x_ND, dictionary_FD, gram_FF, n_steps)
    chosen_NK = torch.zeros(n_rows, n_steps, dtype=torch.long, device=x_ND.device)
    inverse_NKK = x_ND.new_zeros(n_rows, n_steps, n_steps)  # of the lower Cholesky factor
    targets_NK, values_NK = x_ND.new_zeros(n_rows, n_steps), x_ND.new_zeros(n_rows, n_steps)
    total_N = x_ND.square().sum(1)
    left_N, open_N = total_N.clone(), total_N > tol
    sound_N, n_done = torch.ones_like(open_N), 0
    eps = torch.finfo(x_ND.dtype).eps
    for k in range(n_steps):
        if not bool(open_N.any()):
            break
        pick_N = correlations.largest()
        size_N = correlations.norms_F[pick_N]
        before_Nkk = inverse_NKK[:, :k, :k]
        weights_Nk1 = before_Nkk @ correlations.products(chosen_NK[:, :k], pick_N)
        outside_N = size_N - weights_Nk1[..., 0].square().sum(1)
        sound_N &= ~open_N | (outside_N > eps**0.25 * size_N)
        scale_N = outside_N.clamp(min=torch.finfo(x_ND.dtype).tiny).rsqrt().where(open_N, 0.0)
        inverse_NKK[:, k, :k] = -scale_N[:, None] * (weights_Nk1.mT @ before_Nkk)[:, 0]
        inverse_NKK[:, k, k] = scale_N
        chosen_NK[:, k] = pick_N
        targets_NK[:, k] = correlations.first_NF[correlations.rows_N, pick_N]
        row_Nk = inverse_NKK[:, k, : k + 1]
        along_N = (row_Nk * targets_NK[:, : k + 1]).sum(1)
        values_NK[:, : k + 1] += along_N[:, None] * row_Nk
        left_N = left_N - along_N.square()
        sound_N &= ~open_N | (left_N > eps**0.5 * total_N)
        open_N = open_N & (left_N > tol)
        n_done = k + 1
        if n_done < n_steps:
            correlations.update(chosen_NK[:, :n_done], values_NK[:, :n_done])
    return Picks(chosen_NK, values_NK, sound_N, n_done)
