"""Batched OMP on the inverse Cholesky factor of the chosen atoms' Gram matrix."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_BYTES = 1 << 20  # of (rows, atoms) worked on at a time on a CPU: they stay in its cache
LANES = 32
MOST_GRAM_ATOMS = 4096  # with more, the Gram matrix of the dictionary is not made
MARGIN = 1e-5  # share of a row's largest correlation by which float32 must tell two atoms apart
REFINEMENTS = 3  # of values found in float32; each gains some four digits
ENOUGH = 0.5  # share of the rows of a block that float32 must settle to go on with it


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
    inverse: Tensor
    """Inverse Cholesky factors of the chosen atoms' Gram matrices, (N, K, K)."""


def cholesky_omp(x_ND: Tensor, dictionary_FD: Tensor, n_steps: int, tol: float) -> Picks:
    """Choose atoms by orthogonal matching pursuit with the normal equations of the chosen atoms.

    Squares the condition of the chosen atoms, in exchange for touching few numbers; `Picks.sound`
    says which rows are too badly conditioned, or too well explained, for that. In float64, atoms
    are chosen in float32 where no choice is close, and their values are refined.

    References
    ----------
    Rubinstein, Zibulevsky & Elad (2008), "Efficient implementation of the K-SVD algorithm using
    batch orthogonal matching pursuit", algorithm 1. Zhu, Chen, Wu & Zheng (2020), "Efficient
    orthogonal matching pursuit implementations", for the inverse in place of triangular solves.
    """
    n_rows, n_atoms = len(x_ND), len(dictionary_FD)
    pays = n_rows >= 2 * n_atoms and n_atoms <= MOST_GRAM_ATOMS
    atoms = _Atoms(dictionary_FD, dictionary_FD @ dictionary_FD.T if pays else None)
    step = n_rows if x_ND.is_cuda else max(32, BLOCK_BYTES // (n_atoms * 4))
    blocks = x_ND.split(max(step, 1))
    if x_ND.dtype == torch.float32:
        return _joined([_directly(rows, atoms, n_steps, tol) for rows in blocks])
    single, parts, n_settled = atoms.single(), [], 0
    for rows in blocks:
        part = _through_single(rows, atoms, single, n_steps, tol)
        parts.append(part)
        n_settled += int(part.sound.sum())
        if n_settled < ENOUGH * step * len(parts):  # rows to come are likely no better
            break
    n_seen = sum(len(part.sound) for part in parts)
    parts += [_directly(rows, atoms, n_steps, tol) for rows in x_ND[n_seen:].split(max(step, 1))]
    found = _joined(parts)
    open_N = ~found.sound
    open_N[n_seen:] = False
    ids = open_N.nonzero().flatten()
    if len(ids) == 0:
        return found
    again = _directly(x_ND[ids], atoms, n_steps, tol)
    found.chosen[ids], found.values[ids], found.sound[ids] = again.chosen, again.values, again.sound
    return replace(found, n_done=max(found.n_done, again.n_done))


def _directly(x_ND: Tensor, atoms: "_Atoms", n_steps: int, tol: float) -> Picks:
    """Choose atoms in the dtype of the rows."""
    return _picks(x_ND @ atoms.matrix.T, x_ND, atoms, n_steps, tol)


def _joined(parts: list[Picks]) -> Picks:
    return Picks(
        torch.cat([part.chosen for part in parts]),
        torch.cat([part.values for part in parts]),
        torch.cat([part.sound for part in parts]),
        max(part.n_done for part in parts),
        parts[0].inverse[:0],
    )


@dataclass(frozen=True)
class _Atoms:
    """A dictionary, and its Gram matrix if that pays."""

    matrix: Tensor
    """One atom per row, (F, D)."""
    gram: Tensor | None
    """(F, F)."""

    def single(self) -> "_Atoms":
        """Return both in float32, scaled so that the largest atom has norm 1."""
        scale = self.scale()
        gram_FF = None if self.gram is None else (self.gram / scale**2).float()
        return _Atoms((self.matrix / scale).float(), gram_FF)

    def scale(self) -> float:
        """Return the norm of the largest atom, or 1 if all are zero."""
        return float(self.matrix.norm(dim=1).amax()) or 1.0

    def products(self, ids_NK: Tensor) -> Tensor:
        """Return the Gram matrices (N, K, K) of some atoms."""
        if self.gram is not None:
            return self.gram[ids_NK[:, :, None], ids_NK[:, None, :]]
        atoms_NKD = self.matrix[ids_NK]
        return atoms_NKD @ atoms_NKD.mT


def _through_single(x_ND: Tensor, atoms: _Atoms, single: _Atoms, n_steps: int, tol: float) -> Picks:
    """Choose atoms in float32, then find their values in float64."""
    first_NF, scale = x_ND @ atoms.matrix.T, atoms.scale()
    size_N = x_ND.norm(dim=1)
    size_N1 = size_N.where(size_N > 0, 1.0)[:, None]
    found = _picks(
        (first_NF / (size_N1 * scale)).float(),
        (x_ND / size_N1).float(),
        single,
        n_steps,
        (tol / size_N1[:, 0].square()).float(),
        certain=True,
    )
    gram_NKK = atoms.products(found.chosen) / scale**2
    target_NK = first_NF.gather(1, found.chosen) / (size_N1 * scale)
    values_NK = found.values.double()
    used_NK = found.values != 0
    for _ in range(REFINEMENTS):
        left_NK = (target_NK - (gram_NKK @ values_NK[..., None])[..., 0]) * used_NK
        step_NK1 = found.inverse.mT @ (found.inverse @ left_NK.float()[..., None])
        values_NK += step_NK1[..., 0]
    left_NK = (target_NK - (gram_NKK @ values_NK[..., None])[..., 0]) * used_NK
    sound = found.sound & (left_NK.abs().amax(1) < 1e-13)
    return replace(found, values=values_NK * (size_N1 / scale), sound=sound)


class _Correlations:
    """Magnitude of each atom's correlation with what the chosen atoms leave of each row."""

    def __init__(self, first_NF: Tensor, x_ND: Tensor, atoms: _Atoms, n_steps: int):
        dictionary_FD, gram_FF = atoms.matrix, atoms.gram
        self.x_ND, self.dictionary_FD, self.gram_FF = x_ND, dictionary_FD, gram_FF
        self.first_NF = first_NF
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
        self.groups = lanes.amax(2)
        self.group_N = self.groups.argmax(1)
        self.lane = lanes[self.rows_N, self.group_N]
        self.place_N = self.lane.argmax(1)
        return self.group_N * LANES + self.place_N

    def margin(self) -> Tensor:
        """Return by how much the atom just found is ahead of the next."""
        best_N1 = self.lane.gather(1, self.place_N[:, None])
        inside = self.lane.scatter_(1, self.place_N[:, None], -1.0).amax(1)
        outside = self.groups.scatter_(1, self.group_N[:, None], -1.0).amax(1)
        return best_N1[:, 0] - torch.maximum(inside, outside)

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
    first_NF: Tensor,
    x_ND: Tensor,
    atoms: _Atoms,
    n_steps: int,
    tol: float | Tensor,
    *,
    certain: bool = False,
) -> Picks:
    """Choose atoms of some rows; with `certain`, a close choice makes a row unsound."""
    n_rows = len(x_ND)
    correlations = _Correlations(first_NF, x_ND, atoms, n_steps)
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
        if certain:
            sound_N &= ~open_N | (correlations.margin() > MARGIN)
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
        if certain:
            sound_N &= ~open_N | ((left_N - tol).abs() > MARGIN)
        else:
            sound_N &= ~open_N | (left_N > eps**0.5 * total_N)
        open_N = open_N & (left_N > tol)
        n_done = k + 1
        if n_done < n_steps:
            correlations.update(chosen_NK[:, :n_done], values_NK[:, :n_done])
    return Picks(chosen_NK, values_NK, sound_N, n_done, inverse_NKK)
