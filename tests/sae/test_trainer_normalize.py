"""Training on scaled rows gives a model for the rows as they are, and resumes exactly."""

import pytest
import torch

import sae
from sparsecode import io
from sparsecode.datasets import make_sparse_data

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"batch_size": 32, "n_steps": 30, "lr": 5e-3, "progress": False, "log_every": 4}
QUICK |= {"eval_every": 7, "save_every": 6, "dead_after_tokens": 200}
UNITS = torch.tensor([1.0, 300.0, 2.0, 5.0, 0.01, 9.0, 1.0, 70.0])


def rows(units=UNITS) -> torch.Tensor:
    return make_sparse_data(400, 8, 16, 2, noise=0.02)[0] * units


def fit(folder=None, data=None, *, model=None, resume=False, **settings):
    if model is None:
        model = sae.BatchTopK(n_features=8, n_latents=24, k=2, seed=0)
    config = sae.TrainConfig(**{**QUICK, "out_dir": folder, **settings})
    return sae.Trainer(model, rows() if data is None else data, config).fit(resume)


def test_one_factor_changes_nothing_that_can_be_seen_from_outside():
    """Training does not depend on the unit of the data, so scaling it and back is no change."""
    plain = fit(data=rows(200 * torch.ones(8)))
    scaled = fit(data=rows(200 * torch.ones(8)), normalize="mean_square")
    x = rows(200 * torch.ones(8))
    torch.testing.assert_close(scaled.model(x), plain.model(x), rtol=1e-2, atol=2.0)
    assert scaled.evaluation["fvu"] == pytest.approx(plain.evaluation["fvu"], rel=0.02)
    norms = torch.linalg.vector_norm(scaled.model.W_dec, dim=1)
    torch.testing.assert_close(norms, torch.ones(24))


def test_each_feature_has_its_own_factor(tmp_path):
    result = fit(tmp_path, normalize="per_feature", n_steps=200)
    x = rows()
    error = (result.model(x) - x).square().sum(0) / (x - x.mean(0)).square().sum(0)
    assert error.max() < 0.8  # the small features too, which a plain run does not see
    plain = fit(n_steps=200).model
    unseen = (plain(x) - x).square().sum(0) / (x - x.mean(0)).square().sum(0)
    assert unseen[4] > 0.95
    heldout = [row for row in result.history if row["split"] == "heldout"]
    assert heldout[-1]["fvu"] == pytest.approx(result.evaluation["fvu"], rel=1e-5)


@pytest.mark.parametrize("kind", ["mean_square", "per_feature"])
def test_the_model_file_says_how_rows_were_scaled_and_needs_no_scaling(kind, tmp_path):
    result = fit(tmp_path, normalize=kind)
    loaded = sae.load(tmp_path)
    assert torch.equal(loaded(rows()), result.model(rows()))
    known = io.read_json(tmp_path / "model" / "config.json")["metadata"]["normalization"]
    assert (known["kind"], known["folded"]) == (kind, True)
    assert len(known["scale"]) == {"mean_square": 1, "per_feature": 8}[kind]
    assert sae.evaluate(loaded, rows())["fvu"] < 1
    plain = fit(tmp_path / "plain")
    known = io.read_json(plain.out_dir / "model" / "config.json")["metadata"]["normalization"]
    assert known == {"kind": "none"}


@pytest.mark.parametrize("kind", ["mean_square", "per_feature"])
def test_an_interrupted_run_ends_like_an_undisturbed_one(kind, tmp_path, outcome, press_ctrl_c):
    fit(tmp_path / "whole", normalize=kind)
    model = sae.BatchTopK(n_features=8, n_latents=24, k=2, seed=0)
    press_ctrl_c(model, 13)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", normalize=kind, model=model)
    x = rows()
    assert (model(x) - x).abs().median() < x.abs().median() * 10  # folded already
    fit(tmp_path / "parts", normalize=kind, resume=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"train normalize='.*', now 'none'"):
        fit(tmp_path / "parts", resume=True)


def test_tied_weights_take_one_factor_only():
    model = sae.KSparse(n_features=8, n_latents=24, k=2, seed=0)
    fit(model=model, normalize="mean_square")
    with pytest.raises(ValueError, match='`normalize` must be "none" or "mean_square" for KSparse'):
        fit(model=model, normalize="per_feature")


def test_the_estimator_scales_and_goes_on():
    settings = {"k": 2, "max_steps": 40, "batch_size": 64, "normalize": "per_feature"}
    whole = sae.SparseAutoencoder(24, **settings).fit(rows().numpy())
    assert whole.score(rows().numpy()) > 0.3
    once = sae.SparseAutoencoder(24, **settings).partial_fit(rows().numpy())
    twice = sae.SparseAutoencoder(24, **settings).partial_fit(rows().numpy())
    twice.partial_fit(rows().numpy())
    assert twice.n_iter_ == 2 * once.n_iter_
    assert twice.score(rows().numpy()) > once.score(rows().numpy())
    with pytest.raises(ValueError, match="`normalize` must be"):
        sae.SparseAutoencoder(24, **{**settings, "normalize": "unit"}).fit(rows().numpy())


def test_the_order_of_rows_can_have_a_seed_of_its_own():
    same = fit(seed=5).model, fit(seed=3, data_seed=5).model
    assert torch.equal(same[0].W_dec, same[1].W_dec)  # BatchTopK draws nothing else
    assert not torch.equal(same[0].W_dec, fit(seed=3).model.W_dec)
