"""Absorption is found where it was planted, and not where it was not."""

import pytest
import torch

import sae
from sae.evaluation import absorption


def absorb(model: sae.TopK, x: torch.Tensor) -> None:
    """Let latent 5, which points the same way and a bit elsewhere, carry a fifth of class 0."""
    with torch.no_grad():
        rows = model.W_dec
        rows[5] = torch.nn.functional.normalize(rows[3] + 0.5 * rows[6], dim=0)
        model.W_enc[:, 5] = 2.2 * rows[6]  # it fires there only
        special = torch.zeros(600, dtype=torch.bool)
        special[::15] = True
        x[special] += 2.0 * (rows[5] - rows[3])
        model.W_enc[:, 3] -= 2.5 * rows[6]  # and latent 3 is silent there


def test_absorption_is_found_where_it_was_planted(planted) -> None:
    model, x, y = planted
    clean = absorption(model, x, y)
    assert clean["absorption_rate"] == 0.0
    assert clean["classes"]["0"]["main"] == [3]
    absorb(model, x)
    found = absorption(model, x, y, max_rows=None)
    assert 0.1 < found["classes"]["0"]["rate"] < 0.4
    assert found["classes"]["1"]["rate"] == 0.0
    assert found["n_classes"] == 3


def test_absorption_does_not_depend_on_how_rows_are_normalized(planted) -> None:
    """Rows of one length: a model that divides by it and one whose weights do are the same."""
    model, x, y = planted
    absorb(model, x)
    times = 30.0  # what rows are of those that unit_norm makes
    x = x / x.norm(dim=1, keepdim=True) * times * 32**0.5
    normalizing = sae.TopK(n_features=32, n_latents=32, k=4, seed=0, row_norm="unit_norm")
    normalizing.load_state_dict(model.state_dict())
    with torch.no_grad():
        model.W_enc /= times
        model.W_dec *= times
    torch.testing.assert_close(model(x), normalizing(x), rtol=1e-4, atol=1e-3)
    expected = absorption(model, x, y, max_rows=None)
    assert expected["classes"]["0"]["rate"] > 0.1
    assert absorption(normalizing, x, y, max_rows=None) == expected


def test_models_that_cannot_be_measured_are_refused(planted) -> None:
    _, x, y = planted
    with pytest.raises(TypeError, match="Bilinear reconstructs products of them"):
        absorption(sae.Bilinear(n_features=32, n_latents=8), x, y)
    both = torch.cat([x, x[:, :5]], 1)
    with pytest.raises(TypeError, match="Transcoder predicts something else"):
        absorption(sae.Transcoder(n_features=32, n_targets=5, n_latents=8, k=2), both, y)
