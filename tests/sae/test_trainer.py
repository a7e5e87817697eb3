import json
import math
import os
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch

import sae
from sparsecode import io
from sparsecode.datasets import make_sparse_data

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"batch_size": 64, "n_steps": 40, "lr": 5e-3, "progress": False, "log_every": 5}


def rows(n: int = 1000, seed: int = 0) -> torch.Tensor:
    return make_sparse_data(n, 12, 24, 3, noise=0.02, seed=seed)[0]


def topk(**settings) -> sae.TopK:
    return sae.TopK(**{"n_features": 12, "n_latents": 40, "k": 3, "seed": 0, **settings})


def fit(model, data, *, resume=False, overwrite=False, **settings) -> sae.TrainResult:
    config = sae.TrainConfig(**{**QUICK, **settings})
    return sae.Trainer(model, data, config).fit(resume, overwrite=overwrite)


def plain(history: list[dict]) -> list[dict]:
    """Rows without what depends on the clock."""
    return [
        {name: v for name, v in row.items() if name not in ("wall_time", "tokens_per_second")}
        for row in history
    ]


def assert_close_history(first: list[dict], second: list[dict], rel: float) -> None:
    for one, other in zip(plain(first), plain(second), strict=True):
        assert one.pop("split") == other.pop("split")
        assert one == pytest.approx(other, rel=rel)


def assert_same_weights(first, second) -> None:
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_training_lowers_the_error_and_returns_what_it_logged():
    model = topk()
    before = sae.evaluate(model, rows())["fvu"]
    result = fit(model, rows(), n_steps=200, eval_every=100)
    assert result.model is model
    assert not model.training
    assert result.evaluation["fvu"] < 0.35 < before
    assert result.evaluation == sae.evaluate(model, rows(), split="heldout")
    train = [row for row in result.history if row["split"] == "train"]
    assert [row["step"] for row in train] == list(range(5, 201, 5))
    expected = {"step", "tokens", "split", "lr", "loss", "loss/mse", "fvu", "l0", "dead_fraction"}
    assert expected | {"k", "tokens_per_second", "wall_time"} <= set(train[0])
    assert train[-1]["tokens"] == 200 * 64
    assert train[-1]["fvu"] < 0.5 * train[0]["fvu"]
    assert all(row["l0"] == 3.0 for row in train)
    heldout = [row for row in result.history if row["split"] == "heldout"]
    assert [row["step"] for row in heldout] == [100, 200]
    assert heldout[-1]["fvu"] == result.evaluation["fvu"]
    assert json.loads(json.dumps(result.history)) == result.history


def test_decoder_rows_have_unit_norm_at_the_end():
    model = fit(topk(), rows()).model
    torch.testing.assert_close(model.W_dec.norm(dim=1), torch.ones(40), atol=1e-6, rtol=0)


def test_the_seed_decides_and_the_random_state_of_the_user_does_not():
    torch.manual_seed(1)
    first = fit(topk(), rows())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = fit(topk(), rows())
    assert torch.equal(before, torch.get_rng_state())
    assert_same_weights(first.model, second.model)
    assert plain(first.history) == plain(second.history)
    other = fit(topk(), rows(), seed=1)
    assert not torch.equal(first.model.W_dec, other.model.W_dec)


@pytest.mark.parametrize(
    "make", [topk, lambda: sae.KSparse(n_features=12, n_latents=40, k=3, seed=0)]
)
def test_accumulated_parts_equal_the_large_batch(make, tmp_path):
    # In float64, so that only an error in the weights of the parts could show.
    runs = {}
    for accumulate in (1, 3):  # 64 rows in parts of 22, 22 and 20
        folder = tmp_path / str(accumulate)
        settings = {"accumulate": accumulate, "dead_after_tokens": 200, "out_dir": folder}
        runs[accumulate] = fit(make().double(), rows(), max_grad_norm=0.05, **settings)
    whole, parts = runs[1], runs[3]
    assert_close_history(whole.history, parts.history, rel=1e-9)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(tensor, parts.model.state_dict()[name], rtol=1e-9, atol=1e-12)
    counts = [checkpoint_tensors(tmp_path / str(n))["dead.since_fired"] for n in (1, 3)]
    assert torch.equal(*counts)
    assert counts[0].max() > 0


def checkpoint_tensors(folder) -> dict[str, torch.Tensor]:
    state = io.read_json(folder / "checkpoint" / "state.json")
    return io.load_tensors(folder / "checkpoint" / state["tensors"]["file"])


# The norm that `RowAdam` clips by is in float32, whatever the weights are.
@pytest.mark.parametrize(("clip", "tolerance"), [(None, 1e-9), (0.05, 1e-5)])
def test_the_plain_optimizer_gives_the_same_up_to_rounding(clip, tolerance):
    results = [
        fit(topk().double(), rows(), optimizer=name, max_grad_norm=clip, dead_after_tokens=200)
        for name in ("row_adam", "adam")
    ]
    for name, tensor in results[0].model.state_dict().items():
        torch.testing.assert_close(
            tensor, results[1].model.state_dict()[name], rtol=tolerance, atol=tolerance
        )
    assert_close_history(results[0].history, results[1].history, rel=tolerance)


@pytest.mark.parametrize("factor", [2.0**12, 2.0**-12])
def test_the_unit_of_the_data_does_not_matter(factor):
    # A power of two scales floating-point numbers exactly, so equal means equal bit for bit.
    one = fit(topk(), rows(), dead_after_tokens=200)
    other = fit(topk(), rows() * factor, dead_after_tokens=200)
    for name in ("W_enc", "W_dec"):
        assert torch.equal(getattr(one.model, name), getattr(other.model, name))
    for name in ("b_enc", "b_dec"):
        assert torch.equal(getattr(one.model, name) * factor, getattr(other.model, name))
    assert plain(one.history)[:8] == plain(other.history)[:8]
    assert any("loss/auxk" in row for row in one.history)
    assert one.evaluation["fvu"] == other.evaluation["fvu"]
    assert one.evaluation["mse"] * factor**2 == other.evaluation["mse"]


def test_logging_and_evaluation_change_nothing(tmp_path):
    quiet = fit(topk(), rows(), log_every=40, eval_every=40, out_dir=tmp_path / "quiet")
    chatty = fit(
        topk(), rows(), log_every=1, eval_every=1, save_every=1, out_dir=tmp_path / "chatty"
    )
    assert_same_weights(quiet.model, chatty.model)
    first, second = (checkpoint_tensors(tmp_path / name) for name in ("quiet", "chatty"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(chatty.history) == 80


def test_rows_of_metrics_are_means_over_their_steps():
    each = [row["loss"] for row in fit(topk(), rows(), log_every=1, heldout_fraction=0).history]
    fives = [row["loss"] for row in fit(topk(), rows(), heldout_fraction=0).history]
    assert fives == pytest.approx(np.reshape(each, (-1, 5)).mean(1), rel=1e-12)


def test_k_falls_to_its_value_and_the_model_keeps_it():
    result = fit(topk(), rows(), k_start=20, k_anneal_share=0.5, log_every=1, heldout_fraction=0)
    k = [row["k"] for row in result.history]
    assert k[0] == 20
    assert all(a >= b for a, b in pairwise(k))
    assert k[19] > 3
    assert set(k[20:]) == {3}
    assert result.model.k == 3
    with pytest.raises(FloatingPointError):
        fit(model := topk(), rows(), k_start=20, lr=1e30)
    assert model.k == 3


def test_an_architecture_follows_its_own_schedule():
    model = sae.KSparse(n_features=12, n_latents=40, k=2, k_start=10, anneal_share=0.5, seed=0)
    k = [row["k"] for row in fit(model, rows(), log_every=1, heldout_fraction=0).history]
    assert (k[0], k[-1], model.current_k) == (10, 2, 2)


def test_fewer_rows_than_a_batch_are_enough():
    result = fit(topk(), rows(10), batch_size=64, n_steps=20)
    assert result.history[-1]["tokens"] == 20 * 64
    assert result.evaluation["n_rows"] in range(1, 10)
    one = fit(topk(), rows(1), heldout_fraction=0)
    assert one.evaluation is None
    assert math.isfinite(one.history[-1]["loss"])


def test_rows_that_are_all_equal_do_no_harm():
    result = fit(topk(), torch.full((100, 12), 3.0))
    assert all(math.isfinite(row["loss"]) for row in result.history if row["split"] == "train")
    assert result.evaluation["fvu"] in (0.0, math.inf)


def test_gradients_are_autograds_again_after_training():
    model = fit(topk(), rows()).model
    model(rows(4)).sum().backward()
    assert model.W_dec.grad is not None
    assert model.W_enc.grad is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(100, 11), r"\(any, 12\); got \(\d+, 11\)"),
        (torch.zeros(0, 12), r"got \(0, 12\)"),
        (torch.zeros(12), r"got \(12,\)"),
        (torch.full((100, 12), math.inf), "must be finite; got NaN or infinity, first in row 0"),
    ],
)
def test_bad_data_are_refused_before_training(data, message):
    with pytest.raises(ValueError, match=message):
        sae.Trainer(topk(), data)


def test_bad_rows_of_a_mapped_file_are_named_when_they_are_met(tmp_path):
    x = rows(500).numpy()
    x[321, 4] = np.nan
    np.save(tmp_path / "x.npy", x)
    model = topk()
    with pytest.raises(ValueError, match="finite; got NaN or infinity, first in row 321"):
        fit(model, tmp_path / "x.npy", n_steps=100)
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


@pytest.mark.parametrize(
    ("model", "settings", "error", "message"),
    [
        (torch.nn.Linear(12, 40), {}, TypeError, "`model` must be an autoencoder such as sae.TopK"),
        (topk().half(), {}, ValueError, "float32 or float64 weights to be trained; got float16"),
        (topk(), {"k_start": 2}, ValueError, r"`k_start` must be an int in \[k, n_latents\]"),
        (topk(), {"k_start": 41}, ValueError, "got 41 with k=3, n_latents=40"),
        (topk(), {"device": "gpu"}, ValueError, "`device` must be .* got 'gpu'"),
        (topk(), {"precision": "bf16", "device": "cpu"}, ValueError, "needs a GPU; the device is"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, settings, error, message):
    with pytest.raises(error, match=message):
        fit(model, rows(), **settings)


def test_a_configuration_is_a_configuration():
    with pytest.raises(TypeError, match=r"`config` must be a sae.TrainConfig; got dict"):
        sae.Trainer(topk(), rows(), QUICK)
    with pytest.raises(ValueError, match="`out_dir` must be given to resume"):
        fit(topk(), rows(), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    class Explodes(sae.TopK):
        """Its weights are infinite from step 12 on."""

        def set_progress(self, progress: float) -> None:
            if progress >= 12 / 40:
                self.b_dec.data.fill_(math.inf)

    model = Explodes(n_features=12, n_latents=40, k=3, seed=0)
    with (
        pytest.warns(UserWarning, match=r"`model/` will not be written"),
        pytest.raises(FloatingPointError, match=r"loss must be finite; .* step 15\. Use a lower"),
    ):
        fit(model, rows(), out_dir=tmp_path, save_every=10)
    assert io.read_json(tmp_path / "checkpoint" / "state.json")["numbers"]["step"] == 10
    with (
        pytest.warns(UserWarning, match=r"`model/` will not be written"),
        pytest.raises(FloatingPointError, match=r"The weights must be finite to be saved"),
    ):
        fit(model, rows(), out_dir=tmp_path / "b", save_every=1, log_every=40)


class Interrupted(sae.TopK):
    """Presses Ctrl-C in the middle of a step."""

    def set_progress(self, progress: float) -> None:
        if progress == 0.5:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path):
    model = Interrupted(n_features=12, n_latents=40, k=3, seed=0)
    with (
        pytest.warns(UserWarning, match=r"`model/` will not be written"),
        pytest.raises(KeyboardInterrupt, match=r"after step 21 of 40 and saved in .*resume=True"),
    ):
        fit(model, rows(), out_dir=tmp_path)
    assert io.read_json(tmp_path / "checkpoint" / "state.json")["numbers"]["step"] == 21
    with pytest.raises(KeyboardInterrupt, match="after step 21 of 40; nothing was saved"):
        fit(model, rows())
    assert not model.training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_architecture_of_the_users_is_trained_and_checkpointed(tmp_path):
    class Mine(sae.TopK):
        """Not in AUTOENCODERS."""

    model = Mine(n_features=12, n_latents=40, k=3, seed=0)
    with pytest.warns(UserWarning, match="Mine is not in sae.AUTOENCODERS"):
        fit(model, rows(), out_dir=tmp_path)
    assert not (tmp_path / "model").exists()
    assert_same_weights(model, fit(topk(), rows()).model)
