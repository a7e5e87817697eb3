import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sparsecode import penalties
from sparsecode.penalties import (
    CEL0,
    L0,
    L1,
    MCP,
    SCAD,
    AbstractPenalty,
    Convex,
    ElasticNet,
    GroupKSupport,
    GroupL21,
    LHalf,
    LogSum,
    LTwoThirds,
    NonNegative,
    Simplex,
    SortedL1,
    Subdifferentiable,
    TopKBall,
    UnitNorm,
    WeightedL1,
)
from sparsecode.testing import check_penalty, max_new_bytes

WEIGHTS = torch.tensor([0.7, 0.0, 2.0], dtype=torch.float64)
EXAMPLES: list[AbstractPenalty] = [
    L1(0.4),
    L1(0.0),
    ElasticNet(0.4, 0.7),
    WeightedL1(WEIGHTS),
    WeightedL1(WEIGHTS, nonnegative=True),
    L0(0.6),
    L0(0.0),
    TopKBall(0),
    TopKBall(2),
    TopKBall(7),
    LHalf(0.5),
    LHalf(0.0),
    LTwoThirds(0.5),
    LTwoThirds(0.0),
    SCAD(0.6),
    SCAD(0.6, a=2.1),
    MCP(0.8),
    MCP(0.8, gamma=0.7),
    CEL0(0.5),
    CEL0(0.5, atom_norm=0.6),
    LogSum(0.5),
    LogSum(0.5, epsilon=3.0),
    GroupKSupport(0.8, 1),
    GroupKSupport(0.8, 2, [0, 1, 2]),
    GroupKSupport(0.8, 1, [0, 1, 0]),
    GroupKSupport(0.0, 2),
    GroupL21(0.5, [0, 1, 0]),
    SortedL1([1.5, 1.0, 0.0]),
    NonNegative(),
    Simplex(),
    Simplex(2.5),
    UnitNorm(),
]

each_penalty = pytest.mark.parametrize("penalty", EXAMPLES, ids=repr)


def grid(low: float = -5.0, high: float = 5.0) -> Tensor:
    return torch.linspace(low, high, 201, dtype=torch.float64)


@each_penalty
def test_the_contract_holds(penalty: AbstractPenalty) -> None:
    check_penalty(penalty)


def test_every_penalty_is_checked() -> None:
    exported = {
        value
        for value in vars(penalties).values()
        if isinstance(value, type) and issubclass(value, AbstractPenalty)
    }
    assert exported - {AbstractPenalty} == {type(penalty) for penalty in EXAMPLES}


@pytest.mark.parametrize(
    "penalty",
    [p for p in EXAMPLES if isinstance(p, penalties.CoordinateSeparable)],
    ids=repr,
)
@pytest.mark.parametrize("step", [0.2, 1.0, 3.0])
def test_the_prox_of_an_entry_is_the_minimum_on_a_fine_grid(
    penalty: AbstractPenalty, step: float
) -> None:
    points = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    values = torch.vmap(penalty.value)(points[:, None])
    for z in torch.linspace(-4, 4, 33, dtype=torch.float64):
        u = penalty.prox(z[None], step)
        cost = (u - z).square().sum() / 2 + step * penalty.value(u)
        costs = (points - z).square() / 2 + step * values
        assert cost <= costs.min() + 1e-12


# equalities between penalties


def test_cel0_is_mcp_with_its_slope() -> None:
    z, a = grid(), 0.8
    cel0, mcp = CEL0(0.6, atom_norm=a), MCP(math.sqrt(1.2) * a, gamma=1 / a**2)
    torch.testing.assert_close(cel0.value(z), mcp.value(z))
    for step in (0.3, 1.0, 2.0):
        torch.testing.assert_close(cel0.prox(z, step), mcp.prox(z, step))


def test_cel0_with_a_step_of_one_is_l0() -> None:
    torch.testing.assert_close(CEL0(0.5).prox(grid(), 1.0), L0(0.5).prox(grid(), 1.0))


def test_folded_penalties_tend_to_l1() -> None:
    z, l1 = grid(), L1(0.7)
    for penalty in (MCP(0.7, gamma=1e9), SCAD(0.7, a=1e9), ElasticNet(0.7, 0.0)):
        torch.testing.assert_close(penalty.prox(z, 0.5), l1.prox(z, 0.5), atol=1e-6, rtol=0)
    equal = SortedL1([0.7] * 201)
    torch.testing.assert_close(equal.prox(z, 0.5), l1.prox(z, 0.5))
    torch.testing.assert_close(WeightedL1(torch.tensor(0.7)).prox(z, 0.5), l1.prox(z, 0.5))
    alone = GroupL21(0.7, list(range(201)))
    torch.testing.assert_close(alone.prox(z, 0.5), l1.prox(z, 0.5))


def test_sorted_l1_is_the_minimum_over_orders_in_closed_form() -> None:
    # Two magnitudes whose shrunk order would reverse are pooled.
    assert SortedL1([3.0, 0.0]).prox(torch.tensor([2.0, 1.5]), 1.0).tolist() == [0.25, 0.25]


def test_the_half_threshold_of_the_paper() -> None:
    # 54^(1/3) / 4 * lambda^(2/3) with lambda = 2 alpha step, and a jump to 2/3 of it.
    end = 54 ** (1 / 3) / 4 * (2 * 0.5 * 0.8) ** (2 / 3)
    below, above = LHalf(0.5).prox(torch.tensor([end - 1e-9, end + 1e-9], dtype=torch.float64), 0.8)
    assert below == 0
    assert float(above) == pytest.approx(2 / 3 * end, rel=1e-5)


def test_top_k_ball_breaks_ties_by_index_in_each_row() -> None:
    z = torch.tensor([[1.0, -1.0, 1.0], [0.0, 2.0, -3.0]])
    assert TopKBall(2).prox(z, 1.0).tolist() == [[1, -1, 0], [0, 2, -3]]
    assert TopKBall(1).value(z) == math.inf


def test_projections_of_extreme_rows() -> None:
    big = torch.tensor([[1e200, 1e200], [1e-200, 0.0]], dtype=torch.float64)
    norms = UnitNorm().prox(big, 1.0).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2, dtype=torch.float64))
    assert Simplex().prox(torch.tensor([5.0, 5.0, -1e6]), 1.0).tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    "penalty", [p for p in EXAMPLES if isinstance(p, Subdifferentiable)], ids=repr
)
def test_gradients_pass_through_the_prox(penalty: Any) -> None:
    z = torch.tensor([[3.0, -0.01, 2.5]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(penalty.prox(z, 0.3).sum(), z)
    assert slope.isfinite().all()


# messages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MCP(1.0, gamma=0.0), r"`gamma` must be a finite number in \(0, inf\); got 0"),
        (lambda: SCAD(1.0, a=1.0), r"`a` must be a finite number in \(1, inf\); got 1"),
        (lambda: TopKBall(-1), r"`k` must be an int in \[0, inf\); got -1"),
        (lambda: SortedL1([1.0, 2.0]), "`weights` must not increase"),
        (lambda: WeightedL1(torch.tensor([-1.0])), "`weights` must be at least 0; got -1"),
        (lambda: Simplex(0.0), r"`total` must be a finite number in \(0, inf\)"),
        (lambda: GroupL21(1.0, [0, 1]).value(torch.zeros(3)), r"`z` must have shape \(..., len"),
        (lambda: SortedL1([1.0]).prox(torch.zeros(3), 1.0), r"`z` must have shape \(..., len"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# check_penalty finds what is wrong


@dataclass(frozen=True)
class Broken(AbstractPenalty):
    factor: float = 1.0
    joint: bool = False

    def value(self, z: Tensor) -> Tensor:
        return 0.5 * z.abs().sum()

    def prox(self, z: Tensor, step: float) -> Tensor:
        threshold = 0.5 * step * self.factor * (z.abs().max() if self.joint else 1)
        return z.sign() * (z.abs() - threshold).clamp(min=0)


class NotConvex(L0, Convex):
    pass


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (Broken(factor=1.001), "must be a minimum"),
        (Broken(joint=True), "rows one by one"),
        (NotConvex(0.5), "firmly non-expansive"),
    ],
)
def test_a_broken_penalty_is_found(penalty: AbstractPenalty, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_penalty(penalty)


def test_the_formula_of_public_code_without_the_half_is_found() -> None:
    # sparseRegularizers keeps |z| > sqrt(lambda step): right for ||r||^2, wrong for ||r||^2 / 2.
    class Hard(L0):
        def prox(self, z: Tensor, step: float) -> Tensor:
            return z.masked_fill(z.abs() <= np.sqrt(self.alpha * step), 0.0)

    with pytest.raises(AssertionError, match="must be a minimum"):
        check_penalty(Hard(0.6))


@pytest.mark.parametrize("groups", [[], np.array([], dtype=int)], ids=["list", "array"])
def test_groups_must_hold_a_coordinate(groups):
    for make in (partial(GroupL21, 1.0), partial(GroupKSupport, 1.0, 1)):
        with pytest.raises(ValueError, match="`groups` must hold the group of at least one"):
            make(groups=groups)


def test_many_groups_take_no_more_memory_than_the_codes():
    penalty, z = GroupL21(0.5, np.arange(4000) // 2), torch.randn(10, 4000)
    assert max_new_bytes(lambda: penalty.prox(z, 1.0)) < 20 * z.nbytes  # a member matrix: 200
    pairs = z.reshape(10, 2000, 2)
    factors = (1 - 0.5 / pairs.norm(dim=2, keepdim=True)).clamp(min=0)
    torch.testing.assert_close(penalty.prox(z, 1.0), (pairs * factors).reshape(10, 4000))
