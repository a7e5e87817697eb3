"""Batched OMP on the inverse Cholesky factor of the chosen atoms' Gram matrix."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

PART_ENTRIES = 1 << 20  # of (rows, atoms): first correlations that are held at a time on a CPU
BLOCK_ENTRIES = 1 << 19  # of these that are updated at a time, so that they stay in its cache
GATHERED_ENTRIES = 1 << 17  # of atoms gathered at a time
LANES = 32
MOST_GRAM_ATOMS = 4096  # with more, the Gram matrix of the dictionary is not made
MARGIN = 1e-5  # share of a row's size by which float32 must tell two atoms apart
GROWTH = 0.2  # of that share with the sum of a row's values
REFINEMENTS = 3  # of values found in float32; each gains some four digits
REFINED = 1e-13  # share of a row's size that values in float64 may leave along a chosen atom
ENOUGH = 0.5  # share of the rows of a part that float32 must settle to go on with it


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
    says which rows are too badly conditioned, or too well explained, for that. In float64, atoms
    are chosen in float32 where no choice is close, and their values are refined.

    References
    ----------
    Rubinstein, Zibulevsky & Elad (2008), "Efficient implementation of the K-SVD algorithm using
    batch orthogonal matching pursuit", algorithm 1. Zhu, Chen, Wu & Zheng (2020), "Efficient
    orthogonal matching pursuit implementations", for the inverse in place of triangular solves.
    """
    step = len(x_ND)
    if not x_ND.is_cuda:
        step = max(32, PART_ENTRIES // max(len(dictionary_FD), n_steps**2))
    parts = x_ND.split(max(step, 1))
    if x_ND.dtype == torch.float32:
        atoms, tol_N = _Atoms.of(dictionary_FD, len(x_ND)), x_ND.new_full((len(x_ND),), tol)
        pursuits = (_Pursuit(rows, atoms, n_steps).run(tol_N[: len(rows)]) for rows in parts)
        return _joined([pursuit.picks() for pursuit in pursuits])
    scaled = _Scaled(dictionary_FD, len(x_ND), n_steps, tol)
    return _joined([scaled.picks(rows) for rows in parts])


def _joined(parts: list[Picks]) -> Picks:
    return Picks(
        torch.cat([part.chosen for part in parts]),
        torch.cat([part.values for part in parts]),
        torch.cat([part.sound for part in parts]),
        max(part.n_done for part in parts),
    )


@dataclass(frozen=True)
class _Atoms:
    """A dictionary filled up with zeros to whole lanes, and its Gram matrix if that pays."""

    matrix: Tensor
    """One atom per row, (F, D)."""
    gram: Tensor | None
    """(F, F)."""

    @classmethod
    def of(cls, dictionary_FD: Tensor, n_rows: int) -> "_Atoms":
        """Return the atoms for so many rows."""
        n_atoms = len(dictionary_FD)
        matrix = functional.pad(dictionary_FD, (0, 0, 0, -n_atoms % LANES))
        pays = n_rows >= 2 * n_atoms and n_atoms <= MOST_GRAM_ATOMS
        return cls(matrix, matrix @ matrix.T if pays else None)

    def single(self) -> "_Atoms":
        """Return the same in float32."""
        return _Atoms(self.matrix.float(), None if self.gram is None else self.gram.float())

    def products(self, left_KN: Tensor, right_KN: Tensor) -> Tensor:
        """Return the products (K, N) of atoms with atoms; `right_KN` may be (1, N)."""
        assert self.gram is not None
        # Advanced indexing takes several times as long as `index_select`.
        places = left_KN * len(self.matrix) + right_KN
        return self.gram.view(-1).index_select(0, places.view(-1)).view_as(places)

    def squares(self, chosen_KN: Tensor) -> Tensor:
        """Return the Gram matrices (K, K, N) of the atoms of each row."""
        if self.gram is not None:
            return self.products(chosen_KN[:, None], chosen_KN[None])
        step = max(1, GATHERED_ENTRIES // (len(chosen_KN) * self.matrix.shape[1]))
        parts = [self.gathered(ids_KN.T) for ids_KN in chosen_KN.split(step, dim=1)]
        return torch.cat([part @ part.mT for part in parts]).permute(1, 2, 0).contiguous()

    def gathered(self, ids: Tensor) -> Tensor:
        """Return atoms (..., D)."""
        return self.matrix.index_select(0, ids.reshape(-1)).view(*ids.shape, self.matrix.shape[1])


class _Scaled:
    """Chooses atoms in float32 where that is certain, and finds their values in float64.

    Rows, and the largest atom, are scaled by powers of two to norms in [1, 2): what float64 rounds
    to does not depend on that.
    """

    def __init__(self, dictionary_FD: Tensor, n_rows: int, n_steps: int, tol: float) -> None:
        self.n_steps, self.tol = n_steps, tol
        self.n_seen, self.n_settled = 0, 0  # by float32
        self.scale = float(_power_of_two(dictionary_FD.norm(dim=1).amax()))
        self.atoms = _Atoms.of(dictionary_FD / self.scale, n_rows)
        self.single = self.atoms.single()

    def picks(self, x_ND: Tensor) -> Picks:
        """Return what was found; float64 alone chooses for rows with a close choice."""
        size_N = _power_of_two(x_ND.norm(dim=1))
        units_ND, tol_N = x_ND / size_N[:, None], self.tol / size_N.square()
        # If float32 settled few rows, it is likely no better for those to come.
        if self.n_settled < ENOUGH * self.n_seen:
            found = self._in_double(units_ND, tol_N)
        else:
            found = self._in_single(units_ND, tol_N)
            ids = (~found.sound).nonzero().flatten()
            self.n_seen += len(x_ND)
            self.n_settled += len(x_ND) - len(ids)
            if len(ids):
                again = self._in_double(units_ND[ids], tol_N[ids])
                found.chosen[ids], found.values[ids] = again.chosen, again.values
                found.sound[ids] = again.sound
                found = replace(found, n_done=max(found.n_done, again.n_done))
        return replace(found, values=found.values * (size_N / self.scale)[:, None])

    def _in_double(self, units_ND: Tensor, tol_N: Tensor) -> Picks:
        return _Pursuit(units_ND, self.atoms, self.n_steps).run(tol_N).picks()

    def _in_single(self, units_ND: Tensor, tol_N: Tensor) -> Picks:
        pursuit = _Pursuit(units_ND.float(), self.single, self.n_steps, certain=True)
        pursuit.run(tol_N.float())
        values_KN, sound_N = self._refined(units_ND, pursuit)
        found = pursuit.picks()
        return replace(found, values=values_KN.T.contiguous(), sound=found.sound & sound_N)

    def _refined(self, units_ND: Tensor, pursuit: "_Pursuit") -> tuple[Tensor, Tensor]:
        """Return values in float64, and whether they leave nothing along the chosen atoms."""
        chosen_KN, used_KN = pursuit.chosen_KN, pursuit.values_KN != 0
        gram_KKN, inverse_KKN = self.atoms.squares(chosen_KN), pursuit.inverse_KKN
        target_KN = _dots(units_ND, self.atoms.matrix, chosen_KN.T.contiguous()).T
        values_KN = pursuit.values_KN.double()
        for trial in range(REFINEMENTS + 1):
            left_KN = (target_KN - (gram_KKN * values_KN).sum(1)) * used_KN
            sound_N = left_KN.abs().amax(0) < REFINED
            if trial == REFINEMENTS or bool(sound_N.all()):
                break
            inward_KN = (inverse_KKN * left_KN.float()).sum(1)
            values_KN = values_KN + (inverse_KKN * inward_KN[:, None]).sum(0)
        return values_KN, sound_N


def _power_of_two(size: Tensor) -> Tensor:
    """Return the largest power of two up to a size; 1 for 0."""
    return torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 1).where(size > 0, 1.0)


def _dots(x_ND: Tensor, atoms_FD: Tensor, ids_NK: Tensor) -> Tensor:
    """Return the products (N, K) of each row with some atoms, which are not gathered."""
    n_rows, k = ids_NK.shape
    rows = torch.arange(n_rows, device=ids_NK.device)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x_ND, atoms_FD, ids_NK.reshape(-1), rows * k, rows.repeat_interleave(k), 0, -1
    ).view(n_rows, k)


class _Correlations:
    """Magnitude of each atom's correlation with what the chosen atoms leave of each row."""

    def __init__(self, x_ND: Tensor, atoms: _Atoms, n_steps: int) -> None:
        self.x_ND, self.atoms = x_ND, atoms
        self.first_NF = x_ND @ atoms.matrix.T
        n_rows, self.n_atoms = self.first_NF.shape
        self.n_groups = self.n_atoms // LANES
        self.rows_N = torch.arange(n_rows, device=x_ND.device)
        self.groups_NG = x_ND.new_empty(n_rows, self.n_groups)
        self.lanes_NL = x_ND.new_empty(n_rows, LANES)
        step = n_rows if x_ND.is_cuda else BLOCK_ENTRIES // self.n_atoms
        self.blocks = self.rows_N.split(max(step, 1))
        n_features = x_ND.shape[1] if atoms.gram is None else 0
        self.atoms_NKD = x_ND.new_zeros(n_rows, n_steps, n_features)

    def largest(self, chosen_Nk: Tensor, values_Nk: Tensor) -> Tensor:
        """Return the first atom of largest correlation of each row, its chosen ones subtracted."""
        for rows in self.blocks:
            block = slice(int(rows[0]), int(rows[-1]) + 1)
            now = self._now(block, chosen_Nk[block], values_Nk[block])
            # In two steps, because the largest value is found many lanes at a time, its place not.
            lanes = now.view(-1, self.n_groups, LANES)
            torch.amax(lanes, 2, out=self.groups_NG[block])
            group_N = self.groups_NG[block].argmax(1) + self.rows_N[: len(now)] * self.n_groups
            self.lanes_NL[block] = now.view(-1, LANES).index_select(0, group_N)
        self.group_N1 = self.groups_NG.argmax(1, keepdim=True)
        self.lane_N1 = self.lanes_NL.argmax(1, keepdim=True)
        return (self.group_N1 * LANES + self.lane_N1)[:, 0]

    def margin(self) -> Tensor:
        """Return by how much the atom just found is ahead of the next."""
        best_N1 = self.lanes_NL.gather(1, self.lane_N1)
        next_N1 = self.lanes_NL.scatter_(1, self.lane_N1, -1.0).amax(1, keepdim=True)
        return best_N1[:, 0] - self.groups_NG.scatter_(1, self.group_N1, next_N1).amax(1)

    def of(self, pick_N: Tensor) -> Tensor:
        """Return the correlation of one atom of each row with the whole row."""
        return self.first_NF.view(-1).index_select(0, self.rows_N * self.n_atoms + pick_N)

    def products(self, chosen_kN: Tensor, pick_N: Tensor) -> Tensor:
        """Return the products (k, N) of new atoms with those chosen before."""
        if self.atoms.gram is not None:
            return self.atoms.products(chosen_kN, pick_N)
        k = len(chosen_kN)
        self.atoms_NKD[:, k] = self.atoms.gathered(pick_N)
        return (self.atoms_NKD[:, :k] @ self.atoms_NKD[:, k, :, None])[..., 0].T

    def _now(self, block: slice, chosen_Nk: Tensor, values_Nk: Tensor) -> Tensor:
        n_rows, k = chosen_Nk.shape
        if k == 0:
            return self.first_NF[block].abs()
        if self.atoms.gram is None:
            explained = (values_Nk[:, None] @ self.atoms_NKD[block, :k])[:, 0]
            now = (self.x_ND[block] - explained) @ self.atoms.matrix.T
        else:
            now = functional.embedding_bag(
                chosen_Nk.reshape(-1),
                self.atoms.gram,
                self.rows_N[:n_rows] * k,
                mode="sum",
                per_sample_weights=values_Nk.reshape(-1),
            )
            torch.sub(self.first_NF[block], now, out=now)
        return now.abs_().scatter_(1, chosen_Nk, -1.0)  # chosen atoms are out of the race


class _Pursuit:
    """Rows on their way: what each has chosen, and the inverse Cholesky factor of these atoms.

    With `certain`, a close choice makes a row unsound. Rows are the last axis, since many small
    products are found fastest as sums over vectors of rows.
    """

    def __init__(self, x_ND: Tensor, atoms: _Atoms, n_steps: int, *, certain: bool = False) -> None:
        n_rows = len(x_ND)
        self.certain, self.n_done = certain, 0
        self.correlations = _Correlations(x_ND, atoms, n_steps)
        self.norms_F = atoms.matrix.square().sum(1)
        self.largest = self.norms_F.amax().sqrt()
        self.total_N = x_ND.square().sum(1)
        self.size_N = self.total_N.sqrt()
        self.sound_N = torch.ones_like(self.total_N, dtype=torch.bool)
        self.chosen_KN = torch.zeros(n_steps, n_rows, dtype=torch.long, device=x_ND.device)
        self.inverse_KKN = x_ND.new_zeros(n_steps, n_steps, n_rows)  # of the lower Cholesky factor
        self.targets_KN = x_ND.new_zeros(n_steps, n_rows)
        self.values_KN = x_ND.new_zeros(n_steps, n_rows)

    def picks(self) -> Picks:
        """Return what was found."""
        chosen_NK, values_NK = self.chosen_KN.T.contiguous(), self.values_KN.T.contiguous()
        return Picks(chosen_NK, values_NK, self.sound_N, self.n_done)

    def run(self, tol_N: Tensor) -> "_Pursuit":
        """Choose atoms until what is left of a row has at most this squared norm."""
        left_N, open_N = self.total_N, self.total_N > tol_N
        eps = torch.finfo(left_N.dtype).eps
        for k in range(len(self.chosen_KN)):
            if not bool(open_N.any()):
                break
            along_N, harmed_N = self._step(k, open_N)
            left_N = left_N - along_N.square()
            if self.certain:
                harmed_N |= (left_N - tol_N).abs() <= MARGIN * self.total_N
            else:
                harmed_N |= left_N <= eps**0.5 * self.total_N
            self.sound_N &= ~(open_N & harmed_N)
            open_N = open_N & (left_N > tol_N)
            self.n_done = k + 1
        return self

    def _step(self, k: int, open_N: Tensor) -> tuple[Tensor, Tensor]:
        """Choose an atom for each open row; return what it explains, and if rounding harms that."""
        chosen_Nk, values_Nk = self.chosen_KN[:k].T.contiguous(), self.values_KN[:k].T.contiguous()
        pick_N = self.correlations.largest(chosen_Nk, values_Nk)
        size_N, eps = self.norms_F.index_select(0, pick_N), torch.finfo(self.total_N.dtype).eps
        before_kkN = self.inverse_KKN[:k, :k]
        weights_kN = (before_kkN * self.correlations.products(self.chosen_KN[:k], pick_N)).sum(1)
        outside_N = size_N - weights_kN.square().sum(0)
        harmed_N = ~(outside_N > eps**0.25 * size_N)
        if self.certain:
            rounding_N = self.size_N + GROWTH * self.values_KN[:k].abs().sum(0) * self.largest
            harmed_N |= ~(self.correlations.margin() > MARGIN * self.largest * rounding_N)
        scale_N = outside_N.clamp(min=torch.finfo(size_N.dtype).tiny).rsqrt().where(open_N, 0.0)
        self.inverse_KKN[k, :k] = (before_kkN * weights_kN[:, None]).sum(0) * -scale_N
        self.inverse_KKN[k, k] = scale_N
        self.chosen_KN[k], self.targets_KN[k] = pick_N, self.correlations.of(pick_N)
        row_KN = self.inverse_KKN[k, : k + 1]
        along_N = (row_KN * self.targets_KN[: k + 1]).sum(0)
        self.values_KN[: k + 1] += along_N * row_KN
        return along_N, harmed_N
