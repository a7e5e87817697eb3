"""The lasso by coordinate descent and Newton steps on a small set of coordinates of each row."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_ROWS = 2048  # solved together
# Of them, those that share the size of a working set, and the cache.
GROUP_ROWS = {torch.float32: 1024, torch.float64: 256}
SPARE = 8  # coordinates of a working set beyond those that are active
LARGEST = 256  # rows that need more are left to sweeps over all coordinates
COARSE = 1e-5  # tolerance up to which float32 serves as a start for float64
LOOSE = 1e-4  # tolerance from which on float64 leaves that start as it is
ROUNDS, SWEEPS = 2, 2  # of Newton steps, and of sweeps before each, between two choices of the set


@dataclass(frozen=True)
class Found:
    """Codes, how far each is from optimal, and the sweeps done."""

    codes: Tensor
    """Dense, (N, F)."""
    stop_value: Tensor
    """Largest distance to the subdifferential, as a share of the largest gradient at 0, (N,)."""
    n_sweeps: int
    """Sweeps of the row that took most."""


def lasso_by_active_sets(
    x_ND: Tensor, dictionary_FD: Tensor, alpha: float, start_NF: Tensor, tol: float, max_iter: int
) -> Found:
    """Minimize ``1/2 ||x - z D||^2 + alpha ||z||_1`` for each row on working sets of its own.

    Each row works on the coordinates that are active in it and those that violate the optimality
    condition most. On these, sweeps of coordinate descent alternate with a step to the least
    squares solution for the signs of the moment, cut where signs would change. No step raises the
    objective. Rows leave when they are optimal; some may not be at the end, those with many active
    coordinates among them. In float64, a start of zeros is first improved in float32.

    References
    ----------
    Lee, Battle, Raina & Ng (2006), "Efficient sparse coding algorithms", algorithm 1, for the step.
    """
    done, polish = 0, False
    if x_ND.dtype == torch.float64 and not bool(start_NF.any()):
        x_single, dictionary_single = x_ND.float(), dictionary_FD.float()
        coarse = lasso_by_active_sets(
            x_single, dictionary_single, alpha, start_NF.float(), max(tol, COARSE), max_iter
        )
        sound = coarse.codes.isfinite().all(1, keepdim=True)  # not if a row is out of its range
        start_NF, done = coarse.codes.where(sound, 0.0).to(start_NF), coarse.n_sweeps
        polish = tol < LOOSE
    gram_FF = dictionary_FD @ dictionary_FD.T
    found = [
        _block(rows @ dictionary_FD.T, gram_FF, alpha, start, tol, max_iter - done, polish)
        for rows, start in zip(x_ND.split(BLOCK_ROWS), start_NF.split(BLOCK_ROWS), strict=True)
    ]
    return Found(
        torch.cat([part.codes for part in found]),
        torch.cat([part.stop_value for part in found]),
        done + max(part.n_sweeps for part in found),
    )


def _block(
    target_NF: Tensor,
    gram_FF: Tensor,
    alpha: float,
    z_NF: Tensor,
    tol: float,
    max_iter: int,
    polish: bool,
) -> Found:
    """Solve some rows.

    With `polish`, all take a Newton step first, which is exact for the signs that they have: then
    it does not show what rounding, or the rows beside it, made of a start.
    """
    codes_NF, done = z_NF.clone(), 0
    scale_N = target_NF.abs().amax(1).clamp(min=torch.finfo(z_NF.dtype).tiny)
    stop_N, rows = torch.zeros_like(scale_N), torch.arange(len(z_NF), device=z_NF.device)
    gradient_NF = z_NF @ gram_FF - target_NF
    while len(rows):
        active = z_NF != 0
        violation = (gradient_NF.abs() - alpha).clamp_(min=0)
        violation = (gradient_NF + alpha * z_NF.sign()).abs().where(active, violation)
        codes_NF[rows], stop_N[rows] = z_NF, violation.amax(1) / scale_N[rows]
        left = (polish | (stop_N[rows] > tol)) & (active.sum(1) <= LARGEST)
        if done >= max_iter or not bool(left.any()):
            break
        order = active.sum(1)[left].argsort()  # alike rows have working sets of alike sizes
        rows = rows[left][order]
        z_NF, gradient_NF, violation = (
            part[left][order]
            for part in (z_NF, gradient_NF, violation.masked_fill(active, torch.inf))
        )
        parts = [
            _advanced(*part, gram_FF, alpha, polish)
            for part in zip(
                *(
                    whole.split(GROUP_ROWS[z_NF.dtype])
                    for whole in (z_NF, gradient_NF, violation, target_NF[rows])
                ),
                strict=True,
            )
        ]
        z_NF, gradient_NF = (torch.cat(list(pieces)) for pieces in zip(*parts, strict=True))
        done += 0 if polish else ROUNDS * SWEEPS
        polish = False
    return Found(codes_NF, stop_N, done)


def _advanced(
    z_NF: Tensor,
    gradient_NF: Tensor,
    violation_NF: Tensor,
    target_NF: Tensor,
    gram_FF: Tensor,
    alpha: float,
    polish: bool,
) -> tuple[Tensor, Tensor]:
    """Return better codes and their gradients; `violation_NF` says what to work on."""
    most = int((z_NF != 0).sum(1).max()) + (0 if polish else SPARE)
    size = min(len(gram_FF), max(most, 1))
    ids_NK = violation_NF.topk(size, dim=1, sorted=False).indices
    working = _WorkingSet(ids_NK, z_NF, gradient_NF, gram_FF, alpha)
    for _ in range(1 if polish else ROUNDS):
        if not polish:
            working.sweep()
        working.newton()
    values_NK = working.z_KN.T.contiguous()
    gradient_NF = functional.embedding_bag(
        ids_NK.reshape(-1),
        gram_FF,
        torch.arange(len(ids_NK), device=ids_NK.device) * size,
        mode="sum",
        per_sample_weights=values_NK.reshape(-1),
    )
    codes_NF = torch.zeros_like(z_NF).scatter_(1, ids_NK, values_NK)
    return codes_NF, gradient_NF - target_NF


class _WorkingSet:
    """The problem of some coordinates of each row, the others being zero."""

    def __init__(
        self, ids_NK: Tensor, z_NF: Tensor, gradient_NF: Tensor, gram_FF: Tensor, alpha: float
    ) -> None:
        self.alpha = alpha
        self.z_KN = z_NF.gather(1, ids_NK).T.contiguous()
        self.gradient_KN = gradient_NF.gather(1, ids_NK).T.contiguous()
        self.gram_NKK = gram_FF[ids_NK[:, :, None], ids_NK[:, None, :]]
        self.gram_KKN = self.gram_NKK.permute(1, 2, 0).contiguous()
        norms_KN = gram_FF.diagonal()[ids_NK].T
        self.steps_KN = (1 / norms_KN.where(norms_KN > 0, 1.0)).contiguous()
        self.target_KN = self._times_gram(self.z_KN) - self.gradient_KN

    def sweep(self) -> None:
        """Minimize over one coordinate after the other."""
        thresholds_KN = self.alpha * self.steps_KN
        for _ in range(SWEEPS):
            for j in range(len(self.z_KN)):
                moved = torch.addcmul(
                    self.z_KN[j], self.steps_KN[j], self.gradient_KN[j], value=-1.0
                )
                new = moved - torch.clamp(moved, -thresholds_KN[j], thresholds_KN[j])
                self.gradient_KN.addcmul_(self.gram_KKN[j], new - self.z_KN[j])
                self.z_KN[j] = new

    def newton(self) -> None:
        """Go to the best codes with these signs; without the entries that would change theirs."""
        z_KN, signs_KN = self.z_KN, self.z_KN.sign()
        active_NK = (z_KN != 0).T
        matrix_NKK = self.gram_NKK * (active_NK[:, :, None] & active_NK[:, None, :])
        matrix_NKK.diagonal(dim1=1, dim2=2).add_((~active_NK).to(matrix_NKK))
        factor_NKK, failed_N = torch.linalg.cholesky_ex(matrix_NKK)
        wanted_NK = ((self.target_KN - self.alpha * signs_KN).T * active_NK)[..., None]
        best_KN = torch.cholesky_solve(wanted_NK, factor_NKK)[..., 0].T
        sound_N = (failed_N == 0) & best_KN.isfinite().all(0)
        crosses_KN = (z_KN != 0) & (best_KN * signs_KN <= 0)
        jump_KN = best_KN.masked_fill(crosses_KN | ~sound_N, 0.0)
        jump_gradient = self._times_gram(jump_KN) - self.target_KN
        better_N = sound_N & (
            self._objective(jump_KN, jump_gradient) < self._objective(z_KN, self.gradient_KN)
        )
        # Up to the first change of sign the objective falls for certain.
        shares_KN = (z_KN / (z_KN - best_KN)).where(crosses_KN, 1.0)
        first_N = shares_KN.amin(0)
        cut_KN = (z_KN + first_N * (best_KN - z_KN)).masked_fill(
            crosses_KN & (shares_KN <= first_N), 0.0
        )
        self.z_KN = jump_KN.where(better_N, cut_KN.where(sound_N, z_KN)).contiguous()
        self.gradient_KN = (self._times_gram(self.z_KN) - self.target_KN).contiguous()

    def _times_gram(self, z_KN: Tensor) -> Tensor:
        return (self.gram_NKK @ z_KN.T.contiguous()[..., None])[..., 0].T

    def _objective(self, z_KN: Tensor, gradient_KN: Tensor) -> Tensor:
        smooth = (z_KN * (gradient_KN - self.target_KN)).sum(0) / 2
        return smooth + self.alpha * z_KN.abs().sum(0)
