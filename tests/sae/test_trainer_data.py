"""What the trainer takes its rows from, and where it trains."""

import numpy as np
import pytest
import scipy.sparse
import torch

import sae
import sae.cache
from sparsecode.training import new_state, take_step

QUICK = {"batch_size": 32, "n_steps": 20, "lr": 5e-3, "progress": False}


def topk(n_features: int) -> sae.TopK:
    return sae.TopK(n_features=n_features, n_latents=40, k=3, seed=0)


def fit(data, n_features: int, **settings) -> sae.TrainResult:
    return sae.Trainer(topk(n_features), data, sae.TrainConfig(**{**QUICK, **settings})).fit()


def weights(result: sae.TrainResult) -> list[torch.Tensor]:
    return list(result.model.state_dict().values())


def assert_same(first: sae.TrainResult, second: sae.TrainResult) -> None:
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert first.evaluation == second.evaluation


def test_a_cache_is_split_by_documents_for_training_and_evaluation(word_cache):
    result = fit(word_cache, 16)
    heldout = word_cache.with_split("heldout")
    assert result.evaluation["split"] == "heldout"
    assert result.evaluation["n_rows"] == heldout.n_rows
    assert result.evaluation == sae.evaluate(result.model, word_cache)
    assert result.evaluation == sae.evaluate(result.model, heldout)
    # Whoever opens the training side gets the same rows, and the same held-out ones.
    assert_same(result, fit(word_cache.with_split("train"), 16))
    assert sae.evaluate(result.model, word_cache, split="all")["n_rows"] == word_cache.n_rows


def test_the_folder_of_a_cache_needs_its_hookpoint_named(word_cache):
    with pytest.raises(ValueError, match="`hookpoint` must be named"):
        fit(word_cache.path, 16)
    opened = sae.cache.open(word_cache.path, word_cache.hookpoint)
    assert_same(fit(word_cache, 16), fit(opened, 16))


def test_all_rows_of_a_cache_are_used_when_none_are_held_out(word_cache):
    result = fit(word_cache, 16, heldout_fraction=0)
    assert result.evaluation is None
    assert all(row["split"] == "train" for row in result.history)
    heldout = fit(word_cache.with_split("heldout"), 16)
    assert heldout.evaluation is None
    assert_same(result, fit(word_cache.with_split("train", heldout_fraction=0), 16))


def test_the_same_rows_in_other_clothes_give_the_same_model(tmp_path):
    x = torch.randn(200, 6)
    expected = fit(x, 6)
    np.save(tmp_path / "x.npy", x.numpy())
    for same in (x.numpy(), tmp_path / "x.npy", str(tmp_path / "x.npy")):
        assert_same(expected, fit(same, 6))
    assert_same(expected, fit(scipy.sparse.csr_matrix(x.numpy()), 6))
    assert_same(expected, fit(sae.cache.as_source(x), 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_dtypes_are_trained_in_that_of_the_weights(dtype):
    x = torch.randn(200, 6).to(dtype)
    result = fit(x, 6)
    assert result.model.W_dec.dtype == torch.float32
    assert_same(result, fit(x.float(), 6))


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights():
    # A GPU is asked for by the trainer; the step itself takes autocast on any device.
    x = torch.randn(256, 6)
    losses = {}
    for precision in ("float32", "bf16"):
        model = topk(6)
        config = sae.TrainConfig(precision=precision, dead_after_tokens=300, **QUICK)
        task = sae.trainer.AutoencoderTask(model, config, None)
        task.start(x)
        state = new_state(task, config)
        for _ in range(5):
            take_step(task, config, state, x, 1e-3)
        state.close()
        losses[precision] = state.means.read()["loss"]
        moments = state.optimizer.state_dict()["state"].values()
        kept = [*model.parameters(), *(entry["exp_avg"] for entry in moments)]
        assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_training_on_a_gpu_ends_near_that_on_the_cpu(precision, tmp_path):
    x = torch.randn(2000, 32) @ torch.randn(32, 32)
    settings = {"n_steps": 100, "dead_after_tokens": 1000}
    cpu = fit(x, 32, device="cpu", **settings)
    gpu = fit(x, 32, device="cuda", precision=precision, out_dir=tmp_path, **settings)
    assert gpu.model.W_dec.is_cuda
    assert gpu.model.W_dec.dtype == torch.float32
    assert gpu.evaluation["fvu"] == pytest.approx(cpu.evaluation["fvu"], rel=0.05)
    assert sae.load(tmp_path).W_dec.device.type == "cpu"
