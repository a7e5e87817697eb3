"""Every architecture passes the shipped contract, and the contract notices a broken one."""

import inspect

import pytest
import torch

import sae
from sae.autoencoders import AUTOENCODERS
from sae.testing import check_autoencoder

OPTIONS = {
    "topk": [
        {},
        {"k": 1},
        {"k": 40},
        {"pre_bias": False},
        {"aux_coefficient": 0.0},
        {"k_aux": 3},
        {"activation": "groupmax"},
        {"row_norm": "layer_norm"},
        {"row_norm": "unit_norm"},
    ],
    "k_sparse": [{}, {"k_start": 20}, {"alpha": 2.0}],
    "batch_topk": [
        {},
        {"k": 0.5},
        {"k": 40.0},
        {"pre_bias": False},
        {"threshold_decay": 0.0},
        {"row_norm": "layer_norm"},
    ],
    "matryoshka": [
        {},
        {"prefixes": [3, 11], "weights": [1.0, 2.0, 0.5]},
        {"n_sampled": 4},
        {"selection": "topk", "pre_bias": False},
        {"row_norm": "unit_norm"},
    ],
    "jumprelu": [
        {"target_l0": 4},
        {"target_l0": None, "l0_coefficient": 0.01},
        {"bandwidth": 1.0, "pre_bias": False},
        {"warmup_share": 0.5},
        {"target_l0": 4, "row_norm": "layer_norm"},
    ],
    "gated": [{}, {"l1_coefficient": 0.0}, {"pre_bias": False}, {"row_norm": "layer_norm"}],
    "relu": [
        {},
        {"variant": "unit_norm"},
        {"l1_coefficient": 0.0, "pre_bias": False},
        {"row_norm": "unit_norm"},
    ],
    "multi_topk": [{}, {"k": 40}, {"multiple": 3, "multiple_weight": 0.0}, {"k": 15}],
    "transcoder": [
        {},
        {"n_targets": 5},
        {"skip_connection": True},
        {"aux_coefficient": 0.0},
        {"activation": "jumprelu"},
        {"activation": "groupmax", "n_targets": 5},
    ],
    "crosscoder": [{}, {"widths": [3, 4]}, {"widths": [2, 2, 3], "selection": "topk"}],
    "bilinear": [
        {},
        {"variant": "mixed"},
        {"variant": "ordered", "density_coefficient": 0.0},
        {"variant": "combined", "n_mixed": 3, "warmup_share": 0.0},
        {"center": True},
    ],
    "bilinear_topk": [{}, {"k": 1}, {"k": 40}, {"aux_coefficient": 0.0}, {"k_aux": 3}],
    "hierarchical_topk": [{}, {"budgets": [1, 4], "weights": [0.125, 1.0]}, {"budgets": [2]}],
}
CASES = [(name, options) for name in AUTOENCODERS for options in OPTIONS[name]]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_contract(name, options):
    settings = {"n_features": 7, "n_latents": 40, "k": 4, "seed": 0, **options}
    known = inspect.signature(AUTOENCODERS[name]).parameters
    settings = {name: value for name, value in settings.items() if name in known}
    check_autoencoder(lambda: AUTOENCODERS[name](**settings))


def test_the_contract_notices_an_encoder_that_depends_on_its_batch():
    class Centered(sae.AbstractAutoencoder):
        def __init__(self, *, n_features, n_latents):
            super().__init__(n_features, n_latents)
            self.inner = sae.TopK(n_features=n_features, n_latents=n_latents, k=2, seed=0)
            self.W_enc, self.b_enc = self.inner.W_enc, self.inner.b_enc
            self.W_dec, self.b_dec = self.inner.W_dec, self.inner.b_dec

        def encode(self, x, *, k=None):
            shift = x.mean(0) if x.ndim > 1 and len(x) else 0.0
            return self.inner.encode(x - shift, k=k)

        def loss_terms(self, x, target, *, dead_latents=None):
            return self.inner.loss_terms(x, target, dead_latents=dead_latents)

    with pytest.raises(AssertionError, match="must give a row the same code in every batch"):
        check_autoencoder(lambda: Centered(n_features=5, n_latents=12))


def test_the_contract_notices_parameters_that_share_storage():
    def make():
        model = sae.TopK(n_features=5, n_latents=12, k=2, seed=0)
        model.W_enc = torch.nn.Parameter(model.W_dec.data.t())
        return model

    with pytest.raises(AssertionError, match="parameters must not share storage"):
        check_autoencoder(make)
