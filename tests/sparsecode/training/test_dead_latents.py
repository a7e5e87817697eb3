import torch

from sparsecode import SparseCodes
from sparsecode.training import DeadLatents


def brute_force(batches: list[torch.Tensor], width: int) -> torch.Tensor:
    """Rows since the end of the last batch in which each column was not 0."""
    since = torch.zeros(width, dtype=torch.int64)
    for dense in batches:
        fired = (dense != 0).any(0)
        since = torch.where(fired, 0, since + len(dense))
    return since


def sparse(dense: torch.Tensor) -> SparseCodes:
    """Every entry listed, zeros too: listed is not fired."""
    ids = torch.arange(dense.shape[1]).expand_as(dense)
    return SparseCodes(dense, ids, dense.shape[1])


def random_batches(n: int) -> list[torch.Tensor]:
    rates = torch.linspace(0, 0.3, 11)
    return [torch.randn(8, 11) * (torch.rand(8, 11) < rates) for _ in range(n)]


def test_counts_are_those_of_the_definition():
    dead = DeadLatents(11, dead_after=20)
    batches = random_batches(12)
    for index, dense in enumerate(batches):
        dead.see(sparse(dense))
        dead.advance(len(dense))
        expected = brute_force(batches[: index + 1], 11)
        assert torch.equal(dead.since_fired, expected)
        assert float(dead.fraction()) == float((expected >= 20).double().mean())


def test_parts_of_a_step_count_as_one_batch():
    whole, parts = DeadLatents(11, dead_after=20), DeadLatents(11, dead_after=20)
    for dense in random_batches(6):
        whole.see(sparse(dense))
        for part in dense.split(3):
            parts.see(sparse(part).to_ragged())
        for counter in (whole, parts):
            counter.advance(len(dense))
        assert torch.equal(whole.since_fired, parts.since_fired)


def test_negative_values_fire_and_selected_zeros_do_not():
    dead = DeadLatents(3, dead_after=1)
    dead.see(SparseCodes(torch.tensor([[-1.0, 0.0]]), torch.tensor([[0, 1]]), 3))
    dead.advance(1)
    assert dead.since_fired.tolist() == [0, 1, 1]


def test_no_mask_before_any_latent_can_be_dead():
    dead = DeadLatents(2, dead_after=5)
    codes = SparseCodes(torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.long), 2)
    masks = []
    for _ in range(3):
        masks.append(dead.mask())
        dead.see(codes)
        dead.advance(2)
    assert masks == [None, None, None]
    assert dead.mask().tolist() == [False, True]
