"""Alternate between loadings and scores, extrapolated: the loop of the penalized solvers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FIRST_BETA, GROWTH, CEILING_GROWTH, SHRINKAGE = 0.5, 1.05, 1.01, 1.5
POWER_STEPS = 30
START_SWEEPS = 10

CodeStep = Callable[[Tensor, Tensor, Tensor], Tensor]


class Factors(NamedTuple):
    """``rows ~ scores.T @ loadings``, with ``correlation = scores @ rows``."""

    scores: Tensor
    loadings: Tensor
    correlation: Tensor


@dataclass(frozen=True, eq=False)
class AlternatingResult:
    """Where the alternation ended.

    Parameters
    ----------
    loadings : Tensor of shape (K, P)
        Not normalized; a row is zero only where no direction of the residual lowers the objective.
    scores : Tensor of shape (K, R)
        In the unit ball, one row a component, in the coordinates of the principal rows.
    objectives : list of float
        After each iteration, never increasing.
    """

    loadings: Tensor
    scores: Tensor
    objectives: list[float]


def alternate(
    rows: Tensor,
    start: Tensor,
    code_step: CodeStep,
    penalty: Callable[[Tensor], Tensor],
    *,
    max_iter: int,
    tol: float,
) -> AlternatingResult:
    """Minimize ``1/2 ||X - U V||^2 + penalty(V)`` over V and over U with columns in the unit ball.

    One iteration improves V by `code_step` and U by exact block coordinate descent, both from
    extrapolated points; where that increases the objective, it is done again from the last
    accepted point, which never does.

    Parameters
    ----------
    rows : Tensor of shape (R, P)
        Principal rows of X.
    start : Tensor of shape (K, P)
        Loadings to start from.
    code_step : function of (loadings (K, P), gram (K, K), correlation (K, P))
        Returns loadings with a lower value of ``1/2 <V, gram V> - <V, correlation> + penalty(V)``.
    penalty : function of loadings
        Returns a scalar tensor.
    max_iter : int >= 1
    tol : float >= 0
        Stop when two successive iterations lower the objective by less than this share of it.

    Returns
    -------
    AlternatingResult

    References
    ----------
    Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse
    coding", section 3 (block coordinate descent in U). Ang & Gillis (2019), "Accelerating
    nonnegative matrix factorization algorithms using extrapolation", algorithm 3 (here with a step
    back instead of a kept increase).
    """
    scores = _scores_of(rows, start)
    current = ahead = Factors(scores, start, scores @ rows)
    total = float(rows.square().sum())
    beta, ceiling = FIRST_BETA, 1.0
    objectives: list[float] = []
    last, small_steps = float("inf"), 0
    for _ in range(max_iter):
        proposed, extrapolated = _step(rows, ahead, current, code_step, beta if objectives else 0.0)
        value = _objective(total, proposed, penalty)
        if value <= last:
            beta, ceiling = min(ceiling, beta * GROWTH), min(1.0, ceiling * CEILING_GROWTH)
        else:
            ceiling, beta = beta, beta / SHRINKAGE
            proposed, extrapolated = _step(rows, current, current, code_step, 0.0)
            value = min(last, _objective(total, proposed, penalty))
        small_steps = small_steps + 1 if last - value <= tol * abs(value) else 0
        current, ahead, last = proposed, extrapolated, value
        objectives.append(value)
        if small_steps == 2:
            break
    return AlternatingResult(current.loadings, current.scores, objectives)


def _step(
    rows: Tensor, base: Factors, current: Factors, code_step: CodeStep, beta: float
) -> tuple[Factors, Factors]:
    """Return the factors after one iteration from `base`, and those moved on by `beta`."""
    loadings = code_step(base.loadings, base.scores @ base.scores.T, base.correlation)
    scores, loadings = _revived(rows, base.scores, loadings, code_step)
    ahead = loadings + beta * (loadings - current.loadings)
    scores = _improved_scores(scores, ahead @ rows.T, ahead @ ahead.T)
    correlation = scores @ rows
    moved = scores + beta * (scores - current.scores)
    length = moved.norm(dim=1, keepdim=True).clamp(min=1.0)
    # Correlations are linear in the scores: no second product with `rows`.
    follows = correlation + beta * (correlation - current.correlation)
    return (
        Factors(scores, loadings, correlation),
        Factors(moved / length, ahead, follows / length),
    )


def _scores_of(rows: Tensor, loadings: Tensor) -> Tensor:
    """Return scores for loadings to start from."""
    target, gram = loadings @ rows.T, loadings @ loadings.T
    scores = _unit_ball(target)
    for _ in range(START_SWEEPS):
        scores = _improved_scores(scores, target, gram)
    return scores


def _objective(total: float, factors: Factors, penalty: Callable[[Tensor], Tensor]) -> float:
    scores, loadings, correlation = factors
    fit = ((scores @ scores.T) * (loadings @ loadings.T)).sum() - 2 * (loadings * correlation).sum()
    return float(0.5 * (total + fit) + penalty(loadings))


def _improved_scores(scores: Tensor, target: Tensor, gram: Tensor) -> Tensor:
    """Minimize over each row of the scores in turn: one sweep, exact per row on the unit sphere.

    Inside the ball is no better: longer scores with shorter loadings fit as well and cost less.
    """
    scores = scores.clone()
    tiny = torch.finfo(scores.dtype).tiny
    weights = gram.diagonal()
    # With a zero diagonal, the product with all rows leaves out the row that is replaced.
    others = (gram - weights.diag()).unbind()
    for j, weight in enumerate(weights.tolist()):
        if weight > 0:
            row = torch.addmv(target[j], scores.T, others[j], alpha=-1).div_(weight)
            torch.div(row, row.norm().clamp_(min=tiny), out=scores[j])
    return scores


def _revived(
    rows: Tensor, scores: Tensor, loadings: Tensor, code_step: CodeStep
) -> tuple[Tensor, Tensor]:
    """Give each component whose loadings all vanished the main direction of the residual.

    Scores become the leading left singular vector of the residual, loadings the best ones for
    them; where no scores allow loadings other than zero, the component stays dead.
    """
    dead = (loadings.abs().amax(1) == 0).nonzero().flatten().tolist()
    if not dead or rows.shape[0] == 0:
        return scores, loadings
    scores, loadings = scores.clone(), loadings.clone()
    residual = rows - scores.T @ loadings
    for j in dead:
        found = _best_pair(residual, code_step)
        if found is None:
            break
        scores[j], loadings[j] = found
        residual = residual - torch.outer(scores[j], loadings[j])
    return scores, loadings


def _best_pair(residual: Tensor, code_step: CodeStep) -> tuple[Tensor, Tensor] | None:
    """Return one score row and its loadings for the residual; None if the penalty allows none.

    Of all unit scores, the longest column of the residual has the largest product with a single
    feature: if an l1 norm leaves nothing of that, it leaves nothing of any.
    """
    one = residual.new_ones(1, 1)
    longest = residual[:, residual.square().sum(0).argmax()]
    for score in (residual @ main_direction(residual), longest):
        length = score.norm()
        if float(length) > 0:
            loading = code_step(
                residual.new_zeros(1, residual.shape[1]), one, (score @ residual / length)[None]
            )[0]
            if float(loading.abs().max()) > 0:
                return score / length, loading
    return None


def main_direction(rows: Tensor) -> Tensor:
    """Return nearly the leading right singular vector: power iteration from the longest column."""
    direction = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
    direction[rows.square().sum(0).argmax()] = 1.0
    for _ in range(POWER_STEPS):
        direction = rows.T @ (rows @ direction)
        direction = direction / direction.norm().clamp(min=torch.finfo(rows.dtype).tiny)
    return direction


def _unit_ball(scores: Tensor) -> Tensor:
    return scores / scores.norm(dim=1, keepdim=True).clamp(min=1.0)
