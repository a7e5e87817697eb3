"""Rows out of the file: the codes of the whole model, and never the whole model in memory."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sae
from sae.compat import export

D, F = 6, 50
MODELS = {
    "topk": lambda: sae.TopK(n_features=D, n_latents=F, k=5, seed=0),
    "layer norm": lambda: sae.TopK(n_features=D, n_latents=F, k=5, row_norm="layer_norm", seed=0),
    "hierarchical": lambda: sae.HierarchicalTopK(n_features=D, n_latents=F, k=5, seed=0),
    "batch_topk": lambda: sae.BatchTopK(n_features=D, n_latents=F, k=4.5, seed=0),
    "matryoshka": lambda: sae.Matryoshka(n_features=D, n_latents=F, k=4, seed=0),
    "matryoshka topk": lambda: sae.Matryoshka(
        n_features=D, n_latents=F, k=4, selection="topk", seed=0
    ),
    "jumprelu": lambda: sae.JumpReLU(n_features=D, n_latents=F, target_l0=4, seed=0),
    "gated": lambda: sae.Gated(n_features=D, n_latents=F, seed=0),
    "relu": lambda: sae.ReLU(n_features=D, n_latents=F, pre_bias=False, seed=0),
    "transcoder": lambda: sae.Transcoder(
        n_features=D, n_latents=F, n_targets=4, k=5, skip_connection=True, seed=0
    ),
    "thresholds": lambda: sae.Transcoder(
        n_features=D, n_latents=F, k=5, activation="jumprelu", seed=0
    ),
}


def trained(name):
    model, draw = MODELS[name](), torch.Generator().manual_seed(1)
    model.initialize(torch.randn(200, model.row_width, generator=draw) + 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


@pytest.fixture
def x():
    return torch.randn(2, 7, D, generator=torch.Generator().manual_seed(2))


CASES = [*((name, block) for name in MODELS for block in (7, 8192)), ("topk", 1), ("gated", 1)]


@pytest.mark.filterwarnings("ignore:`decode` gives rows as the model normalizes them")
@pytest.mark.parametrize(("name", "block"), CASES)
def test_codes_and_reconstructions_are_those_of_the_whole(name, block, x, tmp_path):
    model = trained(name)
    lazy = sae.LazyAutoencoder(sae.save(model, tmp_path), block=block)
    for k in (None, 2, F):
        want, got = model.encode(x, k=k), lazy.encode(x, k=k)
        assert got.shape == want.shape
        torch.testing.assert_close(got.to_dense(), want.to_dense(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(lazy(x), model(x), rtol=1e-5, atol=1e-5)
    codes = lazy.encode(x)
    torch.testing.assert_close(lazy.decode(codes), model.decode(codes), rtol=1e-5, atol=1e-5)


def test_rows_and_activations_of_some_latents(x, tmp_path):
    model = trained("topk")
    lazy = sae.LazyAutoencoder(sae.save(model, tmp_path))
    ids = [40, 3, 17]
    assert torch.equal(lazy.decoder_rows(ids), model.W_dec[ids])
    assert torch.equal(lazy.encoder_rows(torch.tensor(ids)), model.W_enc.T[ids])
    want = model.encode(x, k=F).to_dense()[..., ids]
    torch.testing.assert_close(lazy.activations(x, ids), want, rtol=1e-6, atol=1e-6)
    gated = trained("gated")
    lazy = sae.LazyAutoencoder(sae.save(gated, tmp_path / "gated"))
    want = gated.encode(x).to_dense()[..., ids]
    torch.testing.assert_close(lazy.part(ids).encode(x).to_dense(), want, rtol=1e-6, atol=1e-6)


def test_checkpoints_of_others(x, tmp_path):
    model = trained("topk")
    for name in ("sparsify", "saelens", "dictionary_learning"):
        lazy = sae.LazyAutoencoder(export(model, tmp_path / name, format=name), block=20)
        torch.testing.assert_close(lazy(x), model(x), rtol=1e-5, atol=1e-5)
        assert lazy.metadata["format"] == name


def test_rows_without_codes(tmp_path):
    model = trained("jumprelu")
    lazy = sae.LazyAutoencoder(sae.save(model, tmp_path))
    nothing = lazy.encode(torch.zeros(0, D))
    assert nothing.shape == (0, F)
    assert lazy.decode(nothing).shape == (0, D)
    with torch.no_grad():
        model.threshold.fill_(1e6)
    lazy = sae.LazyAutoencoder(sae.save(model, tmp_path))
    torch.testing.assert_close(lazy(torch.ones(3, D)), model.b_dec.expand(3, D).detach())


MEMORY = """
import re, sys, torch, sae
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
x = torch.randn(8, 128)
small = sae.LazyAutoencoder(sys.argv[2]); small(x)
before, most = resident(), 0.0
lazy = sae.LazyAutoencoder(sys.argv[1], block=2048)
most = max(most, resident() - before)
lazy.decoder_rows([5, 90_000]); most = max(most, resident() - before)
for first, part in lazy._blocks():
    part.encode(x, k=32); most = max(most, resident() - before)
codes = lazy.encode(x); lazy.decode(codes); most = max(most, resident() - before)
print(most)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_memory_holds_a_block_and_not_the_dictionary(tmp_path):
    model = sae.TopK(n_features=128, n_latents=100_000, k=32, seed=0)
    folder = sae.export(model, tmp_path / "wide", format="sparsify")
    size = (folder / "sae.safetensors").stat().st_size / 2**20
    assert size > 90
    small = sae.save(sae.TopK(n_features=128, n_latents=64, k=32, seed=0), tmp_path / "small")
    command = [sys.executable, "-c", MEMORY, str(folder), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(re.findall(r"[\d.]+", done.stdout)[-1]) < size / 4


def test_what_cannot_be_read_so_gets_one_sentence(x, tmp_path):
    bilinear = sae.Bilinear(n_features=D, n_latents=F)
    with pytest.raises(ValueError, match=r"to be read lazily; it holds a bilinear\. Use sae\.load"):
        sae.LazyAutoencoder(sae.save(bilinear, tmp_path / "bilinear"))
    groups = sae.TopK(n_features=D, n_latents=F, k=5, activation="groupmax")
    with pytest.raises(ValueError, match=r"that selects latents by k or by thresholds"):
        sae.LazyAutoencoder(sae.save(groups, tmp_path / "groups"))
    lazy = sae.LazyAutoencoder(sae.save(trained("topk"), tmp_path / "topk"))
    with pytest.raises(
        ValueError, match=r"`latents` must be ids in \[0, n_latents\) .* got \[50\]"
    ):
        lazy.decoder_rows([50])
    with pytest.raises(ValueError, match=r"`codes` must have the width n_latents=50; got 3\."):
        lazy.decode(sae.TopK(n_features=D, n_latents=3, k=1).encode(x))
    with pytest.raises(ValueError, match=r"`block` must be an int in \[1, inf\)"):
        sae.LazyAutoencoder(tmp_path / "topk", block=0)


def test_weights_with_a_folded_scale_are_refused(tmp_path):
    folder = sae.export(trained("topk"), tmp_path, format="saelens")
    text = (folder / "cfg.json").read_text()
    flag = '"rescale_acts_by_decoder_norm": '
    (folder / "cfg.json").write_text(text.replace(f"{flag}false", f"{flag}true"))
    with pytest.raises(ValueError, match=r"a scale is folded .*Convert them once: sae\.save"):
        sae.LazyAutoencoder(folder)
