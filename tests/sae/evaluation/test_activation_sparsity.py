"""Activation sparsity of a module whose outputs are known."""

import pytest
import torch
from torch import nn

from sae.evaluation import activation_sparsity


class Known(nn.Module):
    """Token t activates the first t of 8 neurons, equally."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 8)
        self.act = nn.ReLU()
        with torch.no_grad():
            self.table.weight.copy_(torch.ones(9, 8).tril(-1) * 2 - 1)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.act(self.table(input_ids))


def test_shares_and_frequencies() -> None:
    found = activation_sparsity(Known(), torch.tensor([[1, 2, 0], [4, 8, 1]]), "act")["act"]
    assert found["nonzero_share"] == pytest.approx(16 / 48)
    assert found["nonzero_at_position"] == pytest.approx([5 / 16, 10 / 16, 1 / 16])
    frequency = [5 / 6, 3 / 6, 2 / 6, 2 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6]
    assert found["firing_frequency"] == pytest.approx(frequency)
    assert found["never_active"] == 0.0
    assert found["participation_ratio"] == pytest.approx(16 / 5)
    assert 0 < found["gini"] < 1
    assert 0 < found["hoyer"] < 1


def test_padding_and_batches_do_not_matter() -> None:
    rows = [[1, 2, 3], [4], [5, 6]]
    one = activation_sparsity(Known(), rows, ["act"], batch_size=1)
    many = activation_sparsity(Known(), rows, ["act"], batch_size=8)
    for name, value in one["act"].items():
        assert many["act"][name] == pytest.approx(value), name
    high = activation_sparsity(Known(), rows, "act", threshold=1.5)["act"]
    assert high["nonzero_share"] == 0.0
    assert high["never_active"] == 1.0


def test_modules_of_a_transformer_by_glob(gpt2_lm, tokens) -> None:
    found = activation_sparsity(gpt2_lm, tokens, "h.*.mlp.act")
    assert list(found) == [f"transformer.h.{i}.mlp.act" for i in range(3)]
    assert all(len(entry["firing_frequency"]) == 64 for entry in found.values())


def test_no_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="`tokens` must hold at least one token; got none"):
        activation_sparsity(Known(), [], "act")


def test_models_of_anything_but_tokens() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 7), nn.ReLU()
    )
    images = torch.randn(11, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = activation_sparsity(net, images, "1", neuron_axis=1, batch_size=4)["1"]
    caught = net[1](net[0](images)).detach()
    active = caught > 0
    assert found["nonzero_share"] == pytest.approx(float(active.double().mean()))
    share = active.double().mean((0, 2, 3)).sort(descending=True).values
    assert found["firing_frequency"] == pytest.approx(share.tolist())
    places = active.double().mean((0, 1)).flatten()
    assert found["nonzero_at_position"] == pytest.approx(places.tolist())
    last = activation_sparsity(net, images, "4", batch_size=4)["4"]
    assert last["nonzero_share"] == pytest.approx(float((net(images) > 0).double().mean()))
    assert len(last["nonzero_at_position"]) == 1
    assert not any(module._forward_hooks for module in net)


def test_inputs_that_measure_nothing_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(ValueError, match=r"`tokens` must hold at least one input; got \(0, 3\)"):
        activation_sparsity(net, torch.zeros(0, 3), "1")
    net.unused = nn.ReLU()
    net.forward = lambda x: net[1](net[0](x))
    with pytest.raises(
        ValueError, match="`modules` must run when the model does; 'unused' did not"
    ):
        activation_sparsity(net, torch.ones(4, 3), ["1", "unused"])
