import pytest
import torch

from sparsecode.penalties import L1, AbstractPenalty, CoordinateSeparable, Subdifferentiable


def test_l1_has_the_abilities_that_solvers_ask_for() -> None:
    assert isinstance(L1(1.0), AbstractPenalty)
    assert isinstance(L1(1.0), Subdifferentiable)
    assert isinstance(L1(1.0), CoordinateSeparable)


def test_a_penalty_without_prox_is_abstract() -> None:
    class Half(AbstractPenalty):
        def value(self, z: torch.Tensor) -> torch.Tensor:
            return z.abs().sqrt().sum()

    with pytest.raises(TypeError, match="prox"):
        Half()
