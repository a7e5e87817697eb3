import json
import math

import numpy as np
import pytest
import torch

import sae
from sae.cache import as_source
from sparsecode.datasets import make_sparse_data
from sparsecode.metrics import fvu


def rows(n: int = 700) -> torch.Tensor:
    return make_sparse_data(n, 10, 20, 3, noise=0.1, seed=4)[0] + torch.linspace(-1, 2, 10)


def trained(x: torch.Tensor) -> sae.TopK:
    model = sae.TopK(n_features=10, n_latents=50, k=3, seed=0)
    model.initialize(x)
    with torch.no_grad():
        model.b_enc[:5] = -100.0  # never fire
        model.b_enc[5] = 3.0  # fires on every row
    return model


def test_every_metric_follows_its_definition():
    x = rows()
    model = trained(x)
    found = sae.evaluate(model, x)
    codes = model.encode(x).to_dense().detach().numpy() != 0
    y = model(x).detach().double().numpy()
    z = x.double().numpy()
    error = ((z - y) ** 2).sum()
    assert found["fvu"] == pytest.approx(error / (z.var(0).sum() * len(z)), rel=1e-6)
    assert found["explained_variance"] == 1 - found["fvu"]
    assert found["mse"] == pytest.approx(error / len(z), rel=1e-6)
    cosines = (z * y).sum(1) / np.linalg.norm(z, axis=1) / np.linalg.norm(y, axis=1)
    assert found["cosine"] == pytest.approx(cosines.mean(), rel=1e-6)
    assert found["l0"] == codes.sum(1).mean()
    assert found["dead_fraction"] == (~codes).all(0).mean() >= 0.1
    assert found["dense_fraction"] == (codes.mean(0) > 0.1).mean() >= 0.02
    np.testing.assert_allclose(found["firing_frequency"], codes.mean(0))
    assert found["firing_frequency"][5] == 1.0
    histogram = found["frequency_histogram"]
    assert sum(histogram["counts"]) + histogram["never"] == 50
    assert (found["n_rows"], found["split"]) == (700, "all")
    assert json.loads(json.dumps(found)) == found


def test_the_batch_size_does_not_matter():
    x = rows()
    model = trained(x)
    whole = sae.evaluate(model, x, batch_size=700)
    for batch_size in (1, 33, 699):
        found = sae.evaluate(model, x, batch_size=batch_size)
        assert found["firing_frequency"] == whole["firing_frequency"]
        for name in ("fvu", "mse", "cosine", "l0"):
            # The matrix product itself rounds differently in batches of another size.
            assert found[name] == pytest.approx(whole[name], rel=1e-6)


def test_a_constant_offset_is_no_explained_variance():
    # Multiples of 1/64, so that x + offset and its difference to b_dec are exact.
    x = (rows() * 64).round() / 64
    model = trained(x)
    with torch.no_grad():
        model.b_dec.copy_((model.b_dec * 64).round() / 64)
    before = sae.evaluate(model, x)
    offset = 2.0**12
    with torch.no_grad():
        model.b_dec.add_(offset)
    moved = sae.evaluate(model, x + offset)
    assert moved["firing_frequency"] == before["firing_frequency"]
    # The reconstruction is rounded to multiples of 2^-11 there.
    assert moved["fvu"] == pytest.approx(before["fvu"], rel=1e-3)
    around_zero = 1 - moved["mse"] / float((x + offset).double().square().sum(1).mean())
    assert around_zero > 0.9999
    assert moved["explained_variance"] < 0.9


def test_nothing_is_changed():
    x = rows()
    model = sae.KSparse(n_features=10, n_latents=50, k=3, k_start=9, alpha=2.0, seed=0)
    model.set_progress(0.25)
    model.train()
    model.register_module("part", torch.nn.Dropout().eval())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = {"current_k": model.current_k, **model.config()}
    torch.manual_seed(7)
    random_state = torch.get_rng_state()
    found = sae.evaluate(model, x)
    assert found["l0"] == 6.0  # alpha * k, as at inference
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert not model.part.training
    assert {"current_k": model.current_k, **model.config()} == settings
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert all(weight.grad is None for weight in model.parameters())


def test_the_mode_comes_back_after_an_error_too():
    model = trained(rows()).train()
    with pytest.raises(ValueError, match="must be finite"):
        sae.evaluate(model, torch.full((5, 10), math.nan))
    assert model.training


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_some_of_the_rows_are_spread_over_all(batch_size):
    x = torch.arange(1000.0)[:, None].expand(-1, 10).contiguous()
    model = trained(rows())
    found = sae.evaluate(model, x, max_rows=100, batch_size=batch_size)
    assert found["n_rows"] == 96  # 16 runs of 6 rows
    firsts = [span * 1000 // 16 for span in range(16)]
    picked = torch.cat([x[first : first + 6] for first in firsts])
    assert found["fvu"] == pytest.approx(fvu(picked, model(picked).detach()), rel=1e-6)
    assert sae.evaluate(model, x, max_rows=1, batch_size=batch_size)["n_rows"] == 1
    assert sae.evaluate(model, x, max_rows=5000)["n_rows"] == 1000


def test_the_sides_of_a_split_are_those_of_training():
    x = rows()
    model = trained(x)
    sides = {split: sae.evaluate(model, x, split=split) for split in ("train", "heldout", "all")}
    assert sides["train"]["n_rows"] + sides["heldout"]["n_rows"] == 700
    for split in ("train", "heldout"):
        assert sides[split]["split"] == split
        side = as_source(x, split=split)
        by_hand = fvu(side.rows(0, side.n_rows), model(side.rows(0, side.n_rows)).detach())
        assert sides[split]["fvu"] == pytest.approx(by_hand, rel=1e-6)
        assert sae.evaluate(model, side) == sides[split]
    half = sae.evaluate(model, x, split="heldout", heldout_fraction=0.5)
    assert half["n_rows"] > 2 * sides["heldout"]["n_rows"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_of_data_and_weights(dtype):
    x = rows()
    model = trained(x)
    expected = sae.evaluate(model, x)["fvu"]
    assert sae.evaluate(model, x.to(dtype))["fvu"] == pytest.approx(expected, rel=0.03)
    assert sae.evaluate(model.to(dtype), x)["fvu"] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": torch.zeros(5, 9)}, r"\(any, 10\); got \(5, 9\)"),
        ({"data": torch.zeros(0, 10)}, r"got \(0, 10\)"),
        ({"split": "test"}, "`split` must be one of 'auto', 'heldout', 'train', 'all'; got 'test'"),
        ({"batch_size": 0}, "`batch_size` must be an int"),
        ({"max_rows": 0}, "`max_rows` must be an int"),
        ({"split": "heldout", "heldout_fraction": 0}, "`heldout_fraction` must be"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    data = settings.pop("data", torch.randn(5, 10))
    with pytest.raises(ValueError, match=message):
        sae.evaluate(sae.TopK(n_features=10, n_latents=20, k=2), data, **settings)


def test_only_autoencoders_are_evaluated():
    with pytest.raises(TypeError, match=r"`model` must be an autoencoder"):
        sae.evaluate(torch.nn.Linear(3, 3), torch.zeros(2, 3))
