"""What is written for others is read back with the same codes, or refused in one sentence."""

import json

import pytest
import torch

import sae
from sae.compat import WRITERS

D, F = 6, 20


def trained(model):
    draw = torch.Generator().manual_seed(1)
    model.initialize(torch.randn(200, model.row_width, generator=draw) + 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def made(kind, **settings):
    return lambda: trained(kind(n_features=D, n_latents=F, seed=0, **settings))


MODELS = {
    "topk": made(sae.TopK, k=3),
    "topk without bias": made(sae.TopK, k=3, pre_bias=False),
    "topk of normalized rows": made(sae.TopK, k=3, row_norm="layer_norm"),
    "groupmax": made(sae.TopK, k=4, activation="groupmax"),
    "multi_topk": made(sae.MultiTopK, k=3),
    "hierarchical": made(sae.HierarchicalTopK, k=3),
    "batch_topk": made(sae.BatchTopK, k=3),
    "batch_topk of a share": made(sae.BatchTopK, k=2.5, pre_bias=False),
    "matryoshka": made(sae.Matryoshka, k=3),
    "matryoshka topk": made(sae.Matryoshka, k=3, selection="topk"),
    "jumprelu": made(sae.JumpReLU, target_l0=3),
    "gated": made(sae.Gated),
    "gated without bias": made(sae.Gated, pre_bias=False),
    "relu": made(sae.ReLU),
    "relu of unit norm": lambda: sae.fold_decoder_norms(MODELS["relu"]()),
    "transcoder": made(sae.Transcoder, k=3),
    "skip": made(sae.Transcoder, k=3, skip_connection=True),
    "narrow": made(sae.Transcoder, k=3, n_targets=4),
    "jumprelu transcoder": made(
        sae.Transcoder, k=3, n_targets=4, activation="jumprelu", skip_connection=True
    ),
}
NOT = {
    "saelens": {"groupmax", "skip", "narrow"},
    "sparsify": {
        *{"topk of normalized rows", "batch_topk", "batch_topk of a share", "matryoshka"},
        *{"jumprelu", "gated", "gated without bias", "relu", "relu of unit norm"},
        *{"narrow", "jumprelu transcoder"},
    },
    "dictionary_learning": {
        *{"topk of normalized rows", "groupmax", "skip", "narrow", "jumprelu transcoder"},
    },
}


@pytest.mark.parametrize("format_name", WRITERS)
@pytest.mark.parametrize("name", MODELS)
def test_codes_and_reconstructions_survive(name, format_name, tmp_path):
    model = MODELS[name]()
    if name in NOT[format_name]:
        with pytest.raises(ValueError, match=rf"`format='{format_name}'` must have .*; got "):
            sae.export(model, tmp_path, format=format_name)
        assert not list(tmp_path.iterdir())
        return
    x = torch.randn(13, D, generator=torch.Generator().manual_seed(2))
    again = sae.load(sae.export(model, tmp_path, format=format_name))
    want = model.encode(x).to_dense().detach()
    torch.testing.assert_close(again.encode(x).to_dense(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_class_in_dictionary_learning_is_the_nearest(tmp_path):
    want = {
        "batch_topk": "BatchTopKSAE",
        "batch_topk of a share": "JumpReluAutoEncoder",
        "matryoshka": "MatryoshkaBatchTopKSAE",
        "relu": "AutoEncoderNew",
        "relu of unit norm": "AutoEncoder",
    }
    for name, kind in want.items():
        folder = sae.export(MODELS[name](), tmp_path / name, format="dictionary_learning")
        assert json.loads((folder / "config.json").read_text())["trainer"]["dict_class"] == kind


def test_wrong_arguments_get_one_sentence(tmp_path):
    model = MODELS["topk"]()
    with pytest.raises(ValueError, match=r"got 'sae_lens'\. Did you mean 'saelens'"):
        sae.export(model, tmp_path, format="sae_lens")
    with pytest.raises(TypeError, match=r"got KSparse, which the other libraries do not have"):
        sae.export(sae.KSparse(n_features=4, n_latents=12, k=2), tmp_path, format="saelens")


def test_a_folder_with_another_model_is_left_alone(tmp_path):
    model = MODELS["topk"]()
    for first, name in (("sparsify", "saelens"), ("saelens", "dictionary_learning")):
        folder = sae.export(model, tmp_path / first, format=first)
        assert sae.export(model, folder, format=first) == folder
        with pytest.raises(
            FileExistsError, match=rf"an export to {name}; it holds files of {first}"
        ):
            sae.export(model, folder, format=name)
    ours = sae.save(model, tmp_path / "ours")
    with pytest.raises(FileExistsError, match=r"it holds files of sparsecode\.sae"):
        sae.export(model, ours, format="dictionary_learning")
    assert sae.load(ours).k == 3
