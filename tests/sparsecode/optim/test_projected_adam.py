import pytest
import torch

from sparsecode.optim import ProjectedAdam


def step_by_hand(weight, gradient, mean, square, t, lr, unit_norm):
    """Adam's algorithm 1 with a projected gradient and rows scaled back, in float64."""
    if unit_norm:
        gradient = gradient - (gradient * weight).sum(1, keepdim=True) * weight
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    move = (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
    weight = weight - lr * move
    if unit_norm:
        weight = weight / weight.norm(dim=1, keepdim=True)
    return weight, mean, square


@pytest.mark.parametrize("latent_dim", [0, 1])
@pytest.mark.parametrize("unit_norm", [True, False])
def test_steps_follow_the_formula(latent_dim, unit_norm):
    rows = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    weight = torch.nn.Parameter(rows.clone() if latent_dim == 0 else rows.clone().t())
    group = {"params": [weight], "latent_dim": latent_dim, "unit_norm": unit_norm}
    optimizer = ProjectedAdam([group], lr=0.05)
    mean = square = torch.zeros_like(rows)
    for t in range(1, 5):
        gradient = torch.randn(6, 4, dtype=torch.float64)
        weight.grad = (gradient if latent_dim == 0 else gradient.t()).clone()
        optimizer.step()
        rows, mean, square = step_by_hand(rows, gradient, mean, square, t, 0.05, unit_norm)
        found = weight.detach() if latent_dim == 0 else weight.detach().t()
        torch.testing.assert_close(found, rows, rtol=1e-12, atol=1e-12)


def test_projected_gradients_are_orthogonal_and_zero_rows_give_no_nan():
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    weight.data[0] = torch.tensor([0.6, 0.8])
    optimizer = ProjectedAdam([{"params": [weight], "latent_dim": 0, "unit_norm": True}], lr=0.1)
    weight.grad = torch.tensor([[3.0, -1.0], [0.0, 0.0], [1.0, 0.0]])
    optimizer.step()
    assert abs(float(weight.grad[0] @ torch.tensor([0.6, 0.8]))) < 1e-6
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(weight.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))


def test_clipping_is_over_all_parameters():
    first, second = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))
    groups = [{"params": [first], "latent_dim": 0, "unit_norm": False}, {"params": [second]}]
    optimizer = ProjectedAdam(groups)
    first.grad, second.grad = torch.full((2, 2), 1.5), torch.tensor([4.0, 0.0, 0.0])
    assert float(optimizer.clip_grad_norm_(1.0)) == 5.0
    torch.testing.assert_close(first.grad, torch.full((2, 2), 0.3))
    torch.testing.assert_close(second.grad, torch.tensor([0.8, 0.0, 0.0]))


def test_a_closure_is_called():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = ProjectedAdam([{"params": [weight]}], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert bool((weight < 1).all())
