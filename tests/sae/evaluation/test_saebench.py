"""The object that SAEBench is given has what it reads, and equals the autoencoder."""

import json

import pytest
import torch

import sae
from sae.evaluation import SAEBenchModel


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
