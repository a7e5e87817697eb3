"""MuonAdam: torch's Muon on matrices, torch's Adam on the rest, unit-norm rows kept."""

import copy

import pytest
import torch

import sae
from sparsecode.optim import MuonAdam


def leaves():
    generator = torch.Generator().manual_seed(0)
    return torch.nn.Parameter(torch.randn(6, 3, generator=generator)), torch.nn.Parameter(
        torch.randn(5, generator=generator)
    )


def loss(W, b):
    return (W.square().sum() + (W[0, 0] * b).sin().sum() + b.square().sum()) / 7


def test_each_part_takes_the_step_of_the_optimizer_of_torch():
    W, b = leaves()
    V, c = leaves()
    ours = MuonAdam([{"params": [W], "lr": 0.05}, {"params": [b], "lr": 0.2}])
    muon = torch.optim.Muon([V], lr=0.05, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam([c], lr=0.2)
    for _ in range(5):
        for parts, optimizers in (((W, b), [ours]), ((V, c), [muon, adam])):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss(*parts).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert torch.equal(W, V)
    assert torch.equal(b, c)


def test_a_group_may_hold_matrices_and_vectors():
    W, b = leaves()
    optimizer = MuonAdam([{"params": [W, b]}], lr=0.1)
    before = copy.deepcopy((W, b))
    assert optimizer.step(lambda: loss(W, b).backward() or 2.0) == 2.0
    assert not torch.equal(W, before[0])
    assert not torch.equal(b, before[1])


def test_rows_stay_at_unit_norm_and_their_gradients_are_projected():
    for latent_dim in (0, 1):
        W = torch.nn.Parameter(torch.nn.functional.normalize(leaves()[0].detach(), dim=1))
        W = W if latent_dim == 0 else torch.nn.Parameter(W.detach().t())
        group = {"params": [W], "latent_dim": latent_dim, "unit_norm": True}
        optimizer = MuonAdam([group], lr=0.1)
        loss(W if latent_dim == 0 else W.t(), torch.zeros(5)).backward()
        optimizer.step()
        rows = W if latent_dim == 0 else W.t()
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(6))


def test_state_goes_on_bit_for_bit():
    W, b = leaves()
    optimizer = MuonAdam([{"params": [W]}, {"params": [b]}], lr=0.1)
    for step in range(6):
        if step == 3:
            state = copy.deepcopy((optimizer.state_dict(), W.data, b.data))
        optimizer.zero_grad()
        loss(W, b).backward()
        optimizer.step()
    V, c = torch.nn.Parameter(state[1]), torch.nn.Parameter(state[2])
    again = MuonAdam([{"params": [V]}, {"params": [c]}], lr=0.1)
    again.load_state_dict(state[0])
    for _ in range(3):
        again.zero_grad()
        loss(V, c).backward()
        again.step()
    assert torch.equal(V, W)
    assert torch.equal(c, b)


def test_clipping_sees_all_gradients():
    W, b = leaves()
    optimizer = MuonAdam([{"params": [W]}, {"params": [b]}])
    W.grad, b.grad = torch.zeros_like(W), torch.zeros_like(b)
    W.grad[0, 0], b.grad[0] = 3.0, 4.0
    assert float(optimizer.clip_grad_norm_(1.0)) == 5.0
    assert float(W.grad[0, 0]) == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["bilinear", "topk"])
def test_the_trainer_lowers_the_error_with_it(name):
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
    options = {"batch_size": 64, "n_steps": 40, "optimizer": "muon", "log_every": 1}
    model = sae.AUTOENCODERS[name](n_features=8, n_latents=32, seed=0)
    history = sae.Trainer(model, x, sae.TrainConfig(**options)).fit().history
    fvu = [row["fvu"] for row in history if row["split"] == "train"]
    assert fvu[-1] < 0.8 * fvu[0]
