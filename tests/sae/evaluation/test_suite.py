"""The suite gathers the measures that the data allow."""

import pytest
import torch

import sae
from sae.evaluation import suite


def test_the_suite_measures_what_it_can_and_says_what_it_cannot(planted, gpt2_lm, tokens) -> None:
    model, x, y = planted
    core = suite(model, x)
    assert core["left_out"] == {"loss": "a language model and texts"}
    assert core["dictionary"]["coherence"] == pytest.approx(0.0, abs=1e-5)
    assert core["reconstruction"]["n_rows"] == 600
    full = suite(model, x, kind="full", labels=y, others=[model])
    assert full["probing"]["accuracy_at_k"]["1"] == pytest.approx(1.0)
    assert full["stability"]["shared"] == 1.0
    assert full["absorption"]["absorption_rate"] == 0.0
    assert set(suite(model, x, kind="full")["left_out"]) == {
        "loss", "probing", "absorption", "stability"
    }  # fmt: skip
    small = sae.TopK(n_features=16, n_latents=8, k=2, seed=0)
    found = suite(small, torch.randn(50, 16), lm=gpt2_lm, texts=tokens, hookpoint="h.1")
    assert found["loss"]["kind"] == "causal"
    with pytest.raises(ValueError, match="`hookpoint` must be given for data that are no cache"):
        suite(small, torch.randn(50, 16), lm=gpt2_lm, texts=tokens)
    with pytest.raises(ValueError, match="`kind` must be one of 'core', 'full'"):
        suite(small, torch.randn(50, 16), kind="all")
