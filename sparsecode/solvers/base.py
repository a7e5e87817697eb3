"""What every solver takes, needs and returns."""

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsecode._checks import check_finite, check_floating, check_same_device, check_shape
from sparsecode.codes import SparseCodes
from sparsecode.datafits import AbstractDatafit, MaskedQuadratic, Quadratic, WeightedQuadratic
from sparsecode.penalties import AbstractPenalty, Convex

CHUNK_ENTRIES = 1 << 22  # of a dense (rows, atoms) matrix that is held at a time


class NotConvergedWarning(UserWarning):
    """Some rows did not reach the tolerance within the iterations allowed."""


@dataclass(frozen=True)
class Problem:
    """Rows, dictionary, penalty and datafit: what `AbstractSolver._solve` works on."""

    x: Tensor
    """Rows to explain."""
    dictionary: Tensor
    """One atom per row."""
    penalty: AbstractPenalty | None
    """None for a solver with a sparsity of its own."""
    datafit: AbstractDatafit
    """How well a row is explained."""
    start: Tensor | None = None
    """Codes to begin with; None means zeros."""

    def rows(self, rows: slice | Tensor) -> "Problem":
        """Return the problem of some of the rows."""
        start = None if self.start is None else self.start[rows]
        return Problem(self.x[rows], self.dictionary, self.penalty, self.datafit.rows(rows), start)

    def first(self) -> Tensor:
        """Return a fresh copy of the codes to begin with, of shape (N, F)."""
        if self.start is not None:
            return self.start.clone()
        return self.x.new_zeros(self.x.shape[0], self.dictionary.shape[0])

    def gradient(self, z_NF: Tensor) -> Tensor:
        """Return the gradient of the datafit in the codes."""
        fitted = self.datafit.gradient(self.x, z_NF @ self.dictionary)
        return fitted @ self.dictionary.T

    def objective(self, z_NF: Tensor) -> Tensor:
        """Return datafit plus penalty of each row."""
        value = self.datafit.value(self.x, z_NF @ self.dictionary)
        if self.penalty is None or len(z_NF) == 0:
            return value
        return value + torch.vmap(self.penalty.value)(z_NF)

    def lipschitz(self) -> float:
        """Return a bound on the change of `gradient`: curvature times the squared norm."""
        wide = self.dictionary.shape[0] > self.dictionary.shape[1]
        half = self.dictionary.T if wide else self.dictionary
        gram = (half @ half.T).double()
        return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0)) * self.datafit.curvature()


@dataclass(frozen=True)
class SolverResult:
    """Codes, and how well they were found."""

    codes: SparseCodes
    """Codes of shape (N, F), on the device of the rows."""
    objective: Tensor
    """Datafit plus penalty of each row, of shape (N,)."""
    stop_value: Tensor
    """What the solver compares with its tolerance, of shape (N,)."""
    n_iter: int
    """Iterations of the row that took most."""
    converged: Tensor
    """Whether each row reached the tolerance, bool of shape (N,)."""


class AbstractSolver(ABC):
    """Finds sparse codes of rows for a fixed dictionary, all rows at once."""

    needs_penalty: ClassVar[tuple[type, ...] | None]
    """What the penalty must be an instance of; None: the solver takes no penalty."""
    needs_datafit: ClassVar[tuple[type, ...]] = (Quadratic,)
    """The datafit must be an instance of one of these."""
    takes_start: ClassVar[bool] = True
    """Whether codes to begin with make a difference."""

    def solve(
        self,
        x: Tensor,
        dictionary: Tensor,
        *,
        penalty: AbstractPenalty | None = None,
        datafit: AbstractDatafit | None = None,
        start: SparseCodes | Tensor | None = None,
        warn: bool = True,
    ) -> SolverResult:
        """Return codes that make datafit plus penalty small.

        Rows are independent, and are solved in parts so that memory beyond the result does not
        grow with their number.

        Parameters
        ----------
        x : Tensor of shape (N, D), float32 or float64
            Rows to explain.
        dictionary : Tensor of shape (F, D)
            One atom per row.
        penalty : AbstractPenalty or None, default=None
            What makes codes sparse, for a solver that takes one.
        datafit : AbstractDatafit or None, default=None
            None means `Quadratic`.
        start : SparseCodes or Tensor of shape (N, F), or None, default=None
            Codes to begin with, for a solver that iterates on codes; None means zeros.
        warn : bool, default=True
            Whether to warn, once, when rows did not converge; `SolverResult.converged` always says.

        Returns
        -------
        SolverResult

        Raises
        ------
        TypeError
            If the solver cannot serve this penalty or datafit; the message names one that can.
        ValueError
            If shapes disagree or entries are not finite.
        """
        datafit = Quadratic() if datafit is None else datafit
        self._check_needs(penalty, datafit)
        if start is not None and not self.takes_start:
            name = type(self).__name__
            warnings.warn(f"`{name}` begins at zero codes; `start` is ignored.", stacklevel=2)
            start = None
        problem = _checked(x, dictionary, penalty, datafit, start)
        n_rows, n_atoms = problem.x.shape[0], problem.dictionary.shape[0]
        step = max(1, CHUNK_ENTRIES // max(n_atoms, problem.x.shape[1]))
        spans = [slice(first, first + step) for first in range(0, max(n_rows, 1), step)]
        with torch.no_grad():
            parts = [self._solve(problem.rows(span)) for span in spans]
        result = parts[0] if len(parts) == 1 else joined(parts)
        missed = int((~result.converged).sum())
        if missed and warn:
            worst = float(result.stop_value.max())
            warnings.warn(
                f"`{type(self).__name__}` did not converge on {missed} of {n_rows} rows in "
                f"{result.n_iter} iterations (stop value up to {worst:.3g}). "
                "Raise `max_iter` or `tol`.",
                NotConvergedWarning,
                stacklevel=2,
            )
        return result

    @abstractmethod
    def _solve(self, problem: Problem) -> SolverResult:
        """Solve a checked problem."""

    def _check_needs(self, penalty: AbstractPenalty | None, datafit: AbstractDatafit) -> None:
        if not isinstance(datafit, AbstractDatafit):
            raise TypeError(f"`datafit` must be an `AbstractDatafit`; got {datafit!r}.")
        if penalty is not None and not isinstance(penalty, AbstractPenalty):
            raise TypeError(f"`penalty` must be an `AbstractPenalty` or None; got {penalty!r}.")
        name, instead = f"`{type(self).__name__}`", f"Use {_serving(penalty, datafit)}."
        if not isinstance(datafit, self.needs_datafit):
            known = " or ".join(f"`{kind.__name__}`" for kind in self.needs_datafit)
            got = type(datafit).__name__
            raise TypeError(f"{name} needs a datafit that is {known}; `{got}` is not. {instead}")
        if self.needs_penalty is None:
            if penalty is not None:
                got = type(penalty).__name__
                raise TypeError(f"{name} takes no penalty; got `{got}`. {instead}")
            return
        if penalty is None:
            raise TypeError(f"{name} needs a penalty; got None. {instead}")
        for kind in self.needs_penalty:
            if not isinstance(penalty, kind):
                got = type(penalty).__name__
                raise TypeError(
                    f"{name} needs a penalty that is `{kind.__name__}`; `{got}` is not. {instead}"
                )


def _serving(penalty: AbstractPenalty | None, datafit: AbstractDatafit) -> str:
    """Return the name of a solver that takes these."""
    if penalty is not None:
        return "`FISTA`" if isinstance(penalty, Convex) else "`ISTA`"
    if isinstance(datafit, (Quadratic, MaskedQuadratic)):
        return "`OMP`"
    return "`FISTA` with a penalty, such as `L1`"


def codes_of(z_NF: Tensor) -> SparseCodes:
    """Return the non-zero entries of dense codes as ragged rows."""
    active = z_NF != 0
    crow = torch.nn.functional.pad(active.sum(1).cumsum(0), (1, 0))
    return SparseCodes._trusted(z_NF[active], active.nonzero()[:, 1], z_NF.shape[1], crow)


def _checked(
    x: Tensor,
    dictionary: Tensor,
    penalty: AbstractPenalty | None,
    datafit: AbstractDatafit,
    start: SparseCodes | Tensor | None,
) -> Problem:
    x_ND, dictionary_FD = check_floating("x", x), check_floating("dictionary", dictionary)
    if x_ND.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"`x` must be float32 or float64; got {x_ND.dtype}.")
    check_shape("dictionary", dictionary_FD, (None, None), ("n_latents", "n_features"))
    if len(dictionary_FD) == 0:
        raise ValueError("`dictionary` must have at least one atom; got none.")
    check_shape("x", x_ND, (None, dictionary_FD.shape[1]), ("n_rows", "n_features"))
    check_same_device("x", x_ND, dictionary=dictionary_FD)
    observed, datafit = x_ND, _fitting(datafit, x_ND)
    if isinstance(datafit, MaskedQuadratic):
        observed = x_ND.where(datafit.mask, 0.0)
    check_finite("x", observed)
    check_finite("dictionary", dictionary_FD, advice="Drop or repair those atoms first.")
    if isinstance(start, SparseCodes):
        start = start.to_dense()
    if start is not None:
        shape = (x_ND.shape[0], dictionary_FD.shape[0])
        start = check_shape("start", start, shape, ("n_rows", "n_latents")).to(x_ND)
        check_finite("start", start, advice="Begin at zeros instead, with start=None.")
    return Problem(observed, dictionary_FD.to(x_ND.dtype), penalty, datafit, start)


def _fitting(datafit: AbstractDatafit, x_ND: Tensor) -> AbstractDatafit:
    """Return a datafit whose mask or weights have the shape, dtype and device of the rows."""
    if not isinstance(datafit, (MaskedQuadratic, WeightedQuadratic)):
        return datafit
    masked = isinstance(datafit, MaskedQuadratic)
    name, held = ("mask", datafit.mask) if masked else ("weights", datafit.weights)
    if held.shape != x_ND.shape[1:]:
        check_shape(name, held, tuple(x_ND.shape), ("n_rows", "n_features"))
    if masked:
        return MaskedQuadratic(held.to(x_ND.device))
    return WeightedQuadratic(held.to(x_ND))


def joined(parts: list[SolverResult]) -> SolverResult:
    """Return the results of parts of the rows as one."""
    return SolverResult(
        SparseCodes.cat([part.codes for part in parts]),
        torch.cat([part.objective for part in parts]),
        torch.cat([part.stop_value for part in parts]),
        max((part.n_iter for part in parts), default=0),
        torch.cat([part.converged for part in parts]),
    )
