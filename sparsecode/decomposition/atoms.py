"""The sums that online dictionary learning keeps, and the best atoms under them."""

import torch
from torch import Tensor

UNUSED = 1e-6  # share of the largest use below which an atom is not moved


def random_rows(rows: Tensor, n_atoms: int, generator: torch.Generator) -> Tensor:
    """Return `n_atoms` of the rows that are not zero, filled up with random directions."""
    drawn = torch.randn(n_atoms, rows.shape[1], generator=generator, dtype=torch.float64)
    atoms = drawn.to(rows)
    filled = rows[rows.abs().amax(1) > 0]
    picked = torch.randperm(len(filled), generator=generator)[:n_atoms].to(rows.device)
    atoms[: len(picked)] = filled[picked]
    return atoms


class AtomSums:
    """Products of codes with codes and with rows, summed over batches, and the current atoms.

    Parameters
    ----------
    atoms_FD : Tensor of shape (F, D)
        Atoms to begin with, of unit norm.
    nonnegative : bool
        Whether atoms have no negative entries.
    """

    def __init__(self, atoms_FD: Tensor, *, nonnegative: bool) -> None:
        self.atoms_FD = atoms_FD
        self.nonnegative = nonnegative
        self.codes_FF = atoms_FD.new_zeros(len(atoms_FD), len(atoms_FD))
        self.rows_FD = torch.zeros_like(atoms_FD)

    def to(self, device: torch.device | str) -> "AtomSums":
        """Return the same sums on a device."""
        moved = AtomSums(self.atoms_FD.to(device), nonnegative=self.nonnegative)
        moved.codes_FF, moved.rows_FD = self.codes_FF.to(device), self.rows_FD.to(device)
        return moved

    def add(self, codes_NF: Tensor, rows_ND: Tensor, memory: int | None) -> None:
        """Add a batch; with `memory`, older batches fade by ``1 - batch / memory`` first."""
        fade = 1.0 if memory is None else max(0.0, 1 - len(rows_ND) / memory)
        self.codes_FF = fade * self.codes_FF + codes_NF.T @ codes_NF
        self.rows_FD = fade * self.rows_FD + codes_NF.T @ rows_ND

    def update_atoms(self) -> None:
        """Set each atom in turn to its best value, scaled to unit norm.

        The squared error in one atom is ``codes_jj ||d||^2 / 2 - d . (rows_j - rest)``. An atom
        that no code uses stays, and so does one whose best value is zero.
        """
        atoms = self.atoms_FD.clone()
        uses = self.codes_FF.diagonal()
        others_FF = self.codes_FF.clone().fill_diagonal_(0)
        used = (uses > UNUSED * uses.max()).nonzero().flatten().tolist()
        atoms_DF = atoms.T
        for j in used:
            best = torch.addmv(self.rows_FD[j], atoms_DF, others_FF[j], alpha=-1)
            if self.nonnegative:
                best.clamp_(min=0)
            norm = float(torch.linalg.vector_norm(best))
            if norm > 0:
                torch.div(best, norm, out=atoms[j])
        self.atoms_FD = atoms

    def replace(self, atoms: Tensor, rows_MD: Tensor) -> None:
        """Set some atoms, and forget the codes that they had."""
        self.atoms_FD = self.atoms_FD.index_copy(0, atoms, rows_MD)
        self.codes_FF[atoms], self.codes_FF[:, atoms], self.rows_FD[atoms] = 0, 0, 0
