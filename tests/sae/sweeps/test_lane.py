"""A lane sees its own random state, and leaves torch's as it was."""

import pytest
import torch

import sae
from sae.sweeps.lane import Lane

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


def lane(folder, **settings) -> Lane:
    model = sae.Matryoshka(n_features=6, n_latents=12, k=2, n_sampled=3, seed=0)  # draws each step
    config = {"batch_size": 20, "n_steps": 6, "progress": False, "out_dir": folder}
    return Lane(sae.Trainer(model, ROWS, sae.TrainConfig(**config | settings)), False, False)


def finished(one: Lane, other: Lane | None = None) -> torch.Tensor:
    batches = one.run.batches()
    while not one.is_done:
        batch = next(batches)
        for each in (one, other):
            if each is not None:
                each.take(batch)
        torch.rand(3)  # somebody else draws too
    batches.close()
    one.finish()
    one.close()
    return one.trainer.model.W_dec.detach()


def test_what_others_draw_does_not_matter(tmp_path):
    torch.manual_seed(5)
    first = lane(tmp_path / "a")
    state = torch.get_rng_state()
    alone = finished(first)
    torch.set_rng_state(state)
    one, other = lane(tmp_path / "b"), lane(tmp_path / "c", seed=3, data_seed=0)
    assert torch.equal(finished(one, other), alone)
    other.close()


def test_torch_keeps_its_random_state(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    taken = lane(tmp_path)
    batches = taken.run.batches()
    taken.take(next(batches))
    batches.close()
    taken.close()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_that_cannot_be_taken_leaves_nothing_open(tmp_path):
    taken = lane(tmp_path)
    with pytest.raises(Exception, match="must"):
        lane(tmp_path)
    taken.close()
    with pytest.raises(FileExistsError, match="`out_dir` must be new or empty"):
        lane(tmp_path)
