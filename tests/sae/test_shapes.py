"""Sizes of an autoencoder that its data decide."""

import pytest
import torch

import sae
from sae.cache import as_source
from sae.shapes import sizes_of


def test_each_kind_takes_the_widths_it_has(word_cache):
    both = as_source(word_cache.path, hookpoint="encoder.layer.0+encoder.layer.1")
    alone = as_source(torch.zeros(4, 7))
    assert sizes_of(sae.TopK, both) == {"n_features": 32}
    assert sizes_of(sae.Transcoder, both) == {"n_features": 16, "n_targets": 16}
    assert sizes_of(sae.Crosscoder, both) == {"n_features": 32, "widths": [16, 16]}
    assert sizes_of(sae.Crosscoder, alone) == {"n_features": 7, "widths": [7]}
    with pytest.raises(ValueError, match="`hookpoint` must name an input and a target for Trans"):
        sizes_of(sae.Transcoder, alone)
