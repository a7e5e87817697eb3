"""The object that SAEBench is given has what it reads, and equals the autoencoder."""

import json

import pytest
import torch

import sae
from sae.evaluation import SAEBenchModel
from sae.row_norm import decoder_factor


@pytest.mark.parametrize("kind", [sae.TopK, sae.BatchTopK, sae.JumpReLU, sae.Gated, sae.KSparse])
def test_dense_codes_and_reconstructions_are_those_of_the_model(kind) -> None:
    model = kind(n_features=16, n_latents=40, seed=0).eval()
    bench = SAEBenchModel(model, "gpt2", 6)
    x = torch.randn(2, 5, 16)
    acts = bench.encode(x)
    torch.testing.assert_close(acts, model.encode(x).to_dense())
    torch.testing.assert_close(bench.decode(acts), model(x))
    torch.testing.assert_close(bench(x), model(x))
    edited = acts.clone()
    edited[..., 7] = 3.0
    expected = bench.decode(acts) + (3.0 - acts[..., 7:8]) * bench.W_dec[7]
    torch.testing.assert_close(bench.decode(edited), expected)
    assert (bench.W_enc.shape, bench.W_dec.shape) == ((16, 40), (40, 16))
    assert (bench.b_enc.shape, bench.b_dec.shape) == ((40,), (16,))


def test_configuration_and_moves() -> None:
    model = sae.TopK(n_features=16, n_latents=40, k=3, seed=0)
    bench = SAEBenchModel(model, "pythia-70m", 3, hook_name="blocks.3.hook_mlp_out")
    config = json.loads(json.dumps(bench.cfg.to_dict()))
    assert (config["d_in"], config["d_sae"], config["hook_layer"]) == (16, 40, 3)
    assert config["hook_name"] == "blocks.3.hook_mlp_out"
    assert config["dtype"] == "float32"
    assert bench.check_decoder_norms()
    assert bench.to(dtype=torch.float64).dtype == torch.float64
    assert bench.device == torch.device("cpu")
    with torch.no_grad():
        model.W_dec[0] *= 2
    assert not bench.check_decoder_norms()


def test_models_that_do_not_reconstruct_their_input_are_refused() -> None:
    with pytest.raises(TypeError, match="Bilinear reconstructs products"):
        SAEBenchModel(sae.Bilinear(n_features=8, n_latents=8), "gpt2", 6)
    with pytest.raises(ValueError, match="an input and an output for Transcoder"):
        SAEBenchModel(sae.Transcoder(n_features=8, n_latents=8, k=2), "gpt2", 6)


@pytest.mark.parametrize("norm", ["layer_norm", "unit_norm"])
def test_rows_that_are_normalized_come_back_as_they_were(norm) -> None:
    model = sae.TopK(n_features=16, n_latents=40, k=3, row_norm=norm, seed=0)
    bench = SAEBenchModel(model, "gpt2", 6)
    x = 7.0 * torch.randn(2, 5, 16) + 2.0
    acts = torch.ones(2, 5, 40)
    with pytest.raises(ValueError, match=r"must be those of the rows .* got shape \(2, 5\) after"):
        bench.decode(acts)
    acts = bench.encode(x)
    torch.testing.assert_close(bench.decode(acts), model(x))
    torch.testing.assert_close(bench(x), model(x))
    acts[..., 3] += 1.0
    moved = bench.decode(acts) - model(x)
    torch.testing.assert_close(
        moved, model.W_dec[3] * decoder_factor(x, norm), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(ValueError, match=r"got shape \(5,\) after \(2, 5\)\."):
        bench.decode(acts[0])


def test_thresholds_empty_batches_and_other_dtypes() -> None:
    model = sae.BatchTopK(n_features=16, n_latents=40, k=3, seed=0)
    bench = SAEBenchModel(model, "gpt2", 6)
    assert bench.threshold is model.threshold
    assert SAEBenchModel(sae.TopK(n_features=8, n_latents=9, k=2), "gpt2", 6).threshold is None
    assert bench.decode(bench.encode(torch.ones(0, 16))).shape == (0, 16)
    bench.to(torch.bfloat16)
    assert (bench.cfg.dtype, bench.dtype) == ("bfloat16", torch.bfloat16)
    assert bench.encode(torch.ones(3, 16)).dtype == torch.bfloat16


def test_it_has_what_the_base_class_of_saebench_has() -> None:
    """Attributes that its evaluations (0.6.0) read of a custom autoencoder, and of its ``cfg``."""
    bench = SAEBenchModel(sae.TopK(n_features=8, n_latents=16, k=2), "gpt2", 6)
    methods = ["encode", "decode", "forward", "to", "check_decoder_norms", "eval", "parameters"]
    assert all(callable(getattr(bench, name)) for name in methods)
    assert all(hasattr(bench, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    assert isinstance(bench.device, torch.device)
    assert isinstance(bench.dtype, torch.dtype)
    read = ["model_name", "d_in", "d_sae", "hook_name", "hook_layer", "hook_head_index", "dtype"]
    read += ["model_from_pretrained_kwargs", "dataset_trust_remote_code", "architecture"]
    assert all(name in bench.cfg.to_dict() for name in read)
