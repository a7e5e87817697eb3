"""The lasso by coordinate descent and Newton steps on a small set of coordinates of each row."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_ROWS = 2048  # solved together
# Of them, those that share the size of a working set, and the cache.
GROUP_ROWS = {torch.float32: 1024, torch.float64: 256}
SPARE = 8  # coordinates of a working set beyond those that are active
LARGEST = 256  # rows that need more are left to sweeps over all coordinates
COARSE = 1e-5  # tolerance up to which float32 serves as a start for float64
SMALLEST = 1e-30  # gradient at 0 that float32 still tells to all its digits
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
    scale: Tensor
    """Largest gradient at 0, (N,)."""


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
    done, polish, scales = 0, False, None
    if x_ND.dtype == torch.float64 and not bool(start_NF.any()):
        x_single, dictionary_single = x_ND.float(), dictionary_FD.float()
        coarse = lasso_by_active_sets(
            x_single, dictionary_single, alpha, start_NF.float(), max(tol, COARSE), max_iter
        )
        sound = coarse.codes.isfinite().all(1, keepdim=True)  # not if a row is out of its range
        start_NF, done = coarse.codes.where(sound, 0.0).to(start_NF), coarse.n_sweeps
        polish = tol < LOOSE
        in_range = coarse.scale.isfinite() & (coarse.scale > SMALLEST)
        if bool((sound[:, 0] & in_range).all()):
            scales = coarse.scale.to(x_ND)
    problem = _Problem(dictionary_FD, alpha)
    found = []
    for first in range(0, max(len(x_ND), 1), BLOCK_ROWS):
        block = slice(first, first + BLOCK_ROWS)
        scale_N = None if scales is None else scales[block]
        found.append(
            _block(problem, x_ND[block], start_NF[block], scale_N, tol, max_iter - done, polish)
        )
    return Found(
        torch.cat([part.codes for part in found]),
        torch.cat([part.stop_value for part in found]),
        done + max(part.n_sweeps for part in found),
        torch.cat([part.scale for part in found]),
    )


class _Problem:
    """A dictionary, its Gram matrix once that is asked for, and the weight of the l1 norm."""

    def __init__(self, dictionary_FD: Tensor, alpha: float) -> None:
        self.dictionary_FD, self.alpha = dictionary_FD, alpha

    @cached_property
    def gram(self) -> Tensor:
        """Products of atoms."""
        return self.dictionary_FD @ self.dictionary_FD.T

    def gradient(self, x_ND: Tensor, z_NF: Tensor) -> Tensor:
        """Return the gradient of the squared error in the codes."""
        left_ND = z_NF @ self.dictionary_FD - x_ND if bool(z_NF.any()) else -x_ND
        return left_ND @ self.dictionary_FD.T

    def violation(self, gradient_NF: Tensor, z_NF: Tensor) -> Tensor:
        """Return the distance of each coordinate to its subdifferential."""
        inactive = gradient_NF.abs().sub_(self.alpha).clamp_(min=0)
        signs_NF = z_NF.sign()
        active = signs_NF.mul(self.alpha).add_(gradient_NF).abs_()
        return torch.where(signs_NF != 0, active, inactive)


def _block(
    problem: _Problem,
    x_ND: Tensor,
    z_NF: Tensor,
    scale_N: Tensor | None,
    tol: float,
    max_iter: int,
    polish: bool,
) -> Found:
    """Solve some rows; `scale_N` is the largest gradient at 0, if that is known.

    With `polish`, all take a Newton step first, which is exact for the signs that they have: then
    it does not show what rounding, or the rows beside it, made of a start.
    """
    codes_NF, done = z_NF.clone(), 0
    gradient_NF = problem.gradient(x_ND, z_NF)
    if scale_N is None:
        at_zero = (x_ND @ problem.dictionary_FD.T) if bool(z_NF.any()) else gradient_NF
        scale_N = at_zero.abs().amax(1).clamp(min=torch.finfo(z_NF.dtype).tiny)
    stop_N, rows = torch.zeros_like(scale_N), torch.arange(len(z_NF), device=z_NF.device)
    while len(rows):
        violation = problem.violation(gradient_NF, z_NF)
        n_active = (z_NF != 0).sum(1)
        codes_NF[rows], stop_N[rows] = z_NF, violation.amax(1) / scale_N[rows]
        left = (polish | (stop_N[rows] > tol)) & (n_active <= LARGEST)
        if done >= max_iter or not bool(left.any()):
            break
        ids = left.nonzero().flatten()
        ids = ids[n_active[ids].argsort()]  # alike rows have working sets of alike sizes
        rows = rows[ids]
        parts = []
        for few in ids.split(GROUP_ROWS[z_NF.dtype]):
            z, gradient = z_NF[few], gradient_NF[few]
            urgent = violation[few].masked_fill_(z != 0, torch.inf)
            parts.append(_advanced(problem, z, gradient, urgent, polish))
        z_NF, gradient_NF = (torch.cat(list(pieces)) for pieces in zip(*parts, strict=True))
        done += 0 if polish else ROUNDS * SWEEPS
        polish = False
    return Found(codes_NF, stop_N, done, scale_N)


def _advanced(
    problem: _Problem, z_NF: Tensor, gradient_NF: Tensor, violation_NF: Tensor, polish: bool
) -> tuple[Tensor, Tensor]:
    """Return better codes and their gradients; `violation_NF` says what to work on."""
    gram_FF = problem.gram
    most = int((z_NF != 0).sum(1).max()) + (0 if polish else SPARE)
    size = min(len(gram_FF), max(most, 1))
    ids_NK = violation_NF.topk(size, dim=1, sorted=False).indices
    working = _WorkingSet(ids_NK, z_NF, gradient_NF, gram_FF, problem.alpha)
    before_NK = working.z_KN.T.clone()
    for _ in range(1 if polish else ROUNDS):
        if not polish:
            working.sweep()
        working.newton()
    values_NK = working.z_KN.T.contiguous()
    moved = functional.embedding_bag(
        ids_NK.reshape(-1),
        gram_FF,
        torch.arange(len(ids_NK), device=ids_NK.device) * size,
        mode="sum",
        per_sample_weights=(values_NK - before_NK).reshape(-1),
    )
    codes_NF = torch.zeros_like(z_NF).scatter_(1, ids_NK, values_NK)
    return codes_NF, moved.add_(gradient_NF)


class _WorkingSet:
    """The problem of some coordinates of each row, the others being zero.

    Rows are the last axis, except where many small matrices are factored.
    """

    def __init__(
        self, ids_NK: Tensor, z_NF: Tensor, gradient_NF: Tensor, gram_FF: Tensor, alpha: float
    ) -> None:
        self.alpha = alpha
        self.z_KN = z_NF.gather(1, ids_NK).T.contiguous()
        self.gradient_KN = gradient_NF.gather(1, ids_NK).T.contiguous()
        # Advanced indexing takes twice as long as `index_select`.
        places_NKK = ids_NK[:, :, None] * len(gram_FF) + ids_NK[:, None]
        flat = gram_FF.view(-1).index_select(0, places_NKK.view(-1))
        self.gram_NKK = flat.view_as(places_NKK)
        self.gram_KKN = self.gram_NKK.permute(1, 2, 0).contiguous()
        norms_KN = gram_FF.diagonal()[ids_NK].T
        self.steps_KN = (1 / norms_KN.where(norms_KN > 0, 1.0)).contiguous()
        self.target_KN = self._times_gram(self.z_KN) - self.gradient_KN

    def sweep(self) -> None:
        """Minimize over one coordinate after the other."""
        thresholds_KN = self.alpha * self.steps_KN
        lower_KN = -thresholds_KN
        for _ in range(SWEEPS):
            for z, step, low, high, gradient, gram_KN in zip(
                self.z_KN,
                self.steps_KN,
                lower_KN,
                thresholds_KN,
                self.gradient_KN,
                self.gram_KKN,
                strict=True,
            ):
                new = torch.addcmul(z, step, gradient, value=-1.0)
                new -= torch.clamp(new, low, high)
                self.gradient_KN.addcmul_(gram_KN, new - z)
                z.copy_(new)

    def newton(self) -> None:
        """Go to the best codes with these signs; without the entries that would change theirs."""
        z_KN, signs_KN = self.z_KN, self.z_KN.sign()
        active_NK = (z_KN != 0).T.to(z_KN.dtype)
        matrix_NKK = self.gram_NKK * active_NK[:, :, None]
        matrix_NKK *= active_NK[:, None, :]
        matrix_NKK.diagonal(dim1=1, dim2=2).add_(1 - active_NK)
        factor_NKK, failed_N = torch.linalg.cholesky_ex(matrix_NKK)
        wanted_NK = ((self.target_KN - self.alpha * signs_KN).T * active_NK)[..., None]
        best_KN = torch.cholesky_solve(wanted_NK, factor_NKK)[..., 0].T.contiguous()
        sound_N = (failed_N == 0) & best_KN.isfinite().all(0)
        crosses_KN = (z_KN != 0) & (best_KN * signs_KN <= 0)
        jump_KN = best_KN.masked_fill(crosses_KN | ~sound_N, 0.0)
        jump_gradient = self._times_gram(jump_KN) - self.target_KN
        better_N = sound_N & (
            self._objective(jump_KN, jump_gradient) < self._objective(z_KN, self.gradient_KN)
        )
        if bool(better_N.all()):
            self.z_KN, self.gradient_KN = jump_KN, jump_gradient
            return
        # Up to the first change of sign the objective falls for certain.
        shares_KN = (z_KN / (z_KN - best_KN)).where(crosses_KN, 1.0)
        first_N = shares_KN.amin(0)
        cut_KN = (z_KN + first_N * (best_KN - z_KN)).masked_fill(
            crosses_KN & (shares_KN <= first_N), 0.0
        )
        self.z_KN = jump_KN.where(better_N, cut_KN.where(sound_N, z_KN)).contiguous()
        self.gradient_KN = self._times_gram(self.z_KN) - self.target_KN

    def _times_gram(self, z_KN: Tensor) -> Tensor:
        result = torch.zeros_like(z_KN)
        for z, gram_KN in zip(z_KN, self.gram_KKN, strict=True):
            result.addcmul_(gram_KN, z)
        return result

    def _objective(self, z_KN: Tensor, gradient_KN: Tensor) -> Tensor:
        smooth = (z_KN * (gradient_KN - self.target_KN)).sum(0) / 2
        return smooth + self.alpha * z_KN.abs().sum(0)
