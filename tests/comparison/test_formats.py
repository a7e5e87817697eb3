"""Checkpoints of the libraries themselves are read, and they read ours, with the same codes."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sae

Weights = dict[str, Tensor]


def fill(module: torch.nn.Module, values: Weights) -> None:
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name).copy_(value)


def agree(model: sae.AbstractAutoencoder, x: Tensor, codes: Tensor, recon: Tensor) -> None:
    torch.testing.assert_close(model.encode(x).to_dense(), codes.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(x), recon.detach(), rtol=1e-5, atol=1e-5)


@pytest.fixture
def free(weights: Weights) -> Weights:
    """The weights with decoder rows of different norms."""
    sizes = torch.linspace(0.5, 2.0, len(weights["W_dec"]))
    return {**weights, "W_dec": weights["W_dec"] * sizes[:, None]}


def ours(kind: type, weights: Weights, **settings) -> sae.AbstractAutoencoder:
    n_latents, n_features = weights["W_dec"].shape
    model = kind(n_features=n_features, n_latents=n_latents, **settings)
    with torch.no_grad():
        for name, value in weights.items():
            model.state_dict()[name].copy_(value)
    return model.eval()


# SAELens

LENS = {
    "standard": ("StandardSAE", {}),
    "standard, no bias": ("StandardSAE", {"apply_b_dec_to_input": False}),
    "topk": ("TopKSAE", {"k": 6}),
    "topk by norm": ("TopKSAE", {"k": 6, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("JumpReLUSAE", {}),
    "gated": ("GatedSAE", {}),
    "layer norm": ("StandardSAE", {"normalize_activations": "layer_norm"}),
    "constant norm": ("TopKSAE", {"k": 6, "normalize_activations": "constant_norm_rescale"}),
    "transcoder": ("Transcoder", {"apply_b_dec_to_input": False}),
    "skip": ("SkipTranscoder", {"apply_b_dec_to_input": False}),
    "jumprelu skip": ("JumpReLUSkipTranscoder", {"apply_b_dec_to_input": False}),
}


def lens_model(name: str, weights: Weights):
    """Return a model of SAELens with the weights, whatever else it has drawn at random."""
    import sae_lens.saes as lens

    kind, settings = LENS[name]
    n_latents, n_features = weights["W_dec"].shape
    sizes = {"d_in": n_features, "d_sae": n_latents}
    if "Transcoder" in kind:
        sizes["d_out"] = n_features
    theirs = getattr(lens, kind)(getattr(lens, f"{kind}Config")(**sizes, **settings))
    values = dict(weights)
    if "gated" in name:
        values["b_gate"] = values.pop("b_enc")
        values |= {part: 0.2 * torch.randn(n_latents) for part in ("r_mag", "b_mag")}
    if "jumprelu" in name:
        values["threshold"] = torch.rand(n_latents)
    if "skip" in name:
        values["W_skip"] = torch.randn(n_features, n_features)
    fill(theirs, values)
    return theirs


@pytest.mark.parametrize("name", LENS)
def test_saelens_saves_and_we_load(sae_lens, free, x, tmp_path: Path, name: str) -> None:
    theirs = lens_model(name, free)
    theirs.save_model(tmp_path)
    agree(sae.load(tmp_path), x, theirs.encode(x), theirs(x))


@pytest.mark.parametrize("kind", ["BatchTopK", "MatryoshkaBatchTopK"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_saelens_trains_and_we_load_both_of_its_files(
    sae_lens, free, x, tmp_path: Path, kind: str, rescaled: bool
) -> None:
    import sae_lens.saes as lens

    n_latents, n_features = free["W_dec"].shape
    settings = {"k": 6, "rescale_acts_by_decoder_norm": rescaled}
    if kind.startswith("Matryoshka"):
        settings["matryoshka_widths"] = [16, n_latents]
    config = getattr(lens, f"{kind}TrainingSAEConfig")(d_in=n_features, d_sae=n_latents, **settings)
    theirs = getattr(lens, f"{kind}TrainingSAE")(config)
    fill(theirs, free)
    theirs.topk_threshold.fill_(0.8)
    theirs.save_model(tmp_path / "training")
    theirs.save_inference_model(tmp_path / "inference")
    final = lens.SAE.load_from_disk(tmp_path / "inference")
    for folder in ("training", "inference"):
        agree(sae.load(tmp_path / folder), x, final.encode(x), final(x))


@pytest.mark.parametrize("name", LENS)
def test_we_save_and_saelens_loads(sae_lens, free, x, tmp_path: Path, name: str) -> None:
    from sae_lens import SAE

    lens_model(name, free).save_model(tmp_path / "theirs")
    model = sae.load(tmp_path / "theirs")
    theirs = SAE.load_from_disk(sae.export(model, tmp_path / "ours", format="saelens"))
    agree(model, x, theirs.encode(x), theirs(x))


def test_we_save_batch_topk_and_saelens_loads(sae_lens, free, x, tmp_path: Path) -> None:
    from sae_lens import SAE

    for kind in (sae.BatchTopK, sae.Matryoshka):
        model = ours(kind, {**free, "threshold": torch.tensor(0.7)}, k=6)
        theirs = SAE.load_from_disk(sae.export(model, tmp_path, format="saelens"))
        agree(model, x, theirs.encode(x), theirs(x))


# sparsify


def dense(found, n_latents: int) -> Tensor:
    codes = torch.zeros(len(found.top_acts), n_latents)
    return codes.scatter(-1, found.top_indices, found.top_acts)


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
@pytest.mark.parametrize("skip_connection", [False, True])
@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify_both_ways(
    sparsify, free, x, tmp_path: Path, transcode: bool, skip_connection: bool, activation: str
) -> None:
    n_latents, n_features = free["W_dec"].shape
    settings = {"transcode": transcode, "skip_connection": skip_connection}
    config = sparsify.SparseCoderConfig(
        num_latents=n_latents, k=6, activation=activation, **settings
    )
    theirs = sparsify.SparseCoder(n_features, config)
    values = {"encoder.weight": free["W_enc"].T, "encoder.bias": free["b_enc"]}
    values |= {name: free[name] for name in ("W_dec", "b_dec")}
    if skip_connection:
        values["W_skip"] = torch.randn(n_features, n_features)
    fill(theirs, values)
    theirs.save_to_disk(tmp_path / "theirs")
    model = sae.load(tmp_path / "theirs")
    agree(model, x, dense(theirs.encode(x), n_latents), theirs(x).sae_out)
    written = sae.export(model, tmp_path / "ours", format="sparsify")
    again = sparsify.SparseCoder.load_from_disk(written)
    agree(model, x, dense(again.encode(x), n_latents), again(x).sae_out)


# dictionary_learning


def dictionaries(weights: Weights) -> dict[str, torch.nn.Module]:
    """Return one dictionary of each class, with the weights."""
    from dictionary_learning import dictionary as classes
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    f, d = weights["W_dec"].shape
    linear = {"encoder.weight": weights["W_enc"].T, "decoder.weight": weights["W_dec"].T}
    biased = {**linear, "encoder.bias": weights["b_enc"]}
    gated = {name: 0.2 * torch.randn(f) for name in ("gate_bias", "mag_bias", "r_mag")}
    theta = torch.rand(f)
    b = weights["b_dec"]
    made = [
        (classes.AutoEncoder(d, f), {**biased, "bias": b}),
        (classes.AutoEncoderNew(d, f), {**biased, "decoder.bias": b}),
        (classes.GatedAutoEncoder(d, f), {**linear, **gated, "decoder_bias": b}),
        (classes.JumpReluAutoEncoder(d, f), {**weights, "threshold": theta}),
        (AutoEncoderTopK(d, f, 6), {**biased, "b_dec": b}),
        (BatchTopKSAE(d, f, 6), {**biased, "b_dec": b}),
        (MatryoshkaBatchTopKSAE(d, f, 6, [16, f - 16]), weights),
    ]
    for theirs, values in made:
        fill(theirs, values)
        if "threshold" in dict(theirs.named_buffers()):
            theirs.threshold.fill_(0.6)
    return {type(theirs).__name__: theirs for theirs, _ in made}


CLASSES = ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"]
CLASSES += ["AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"]


def load_dictionary(folder: Path):
    from dictionary_learning.utils import load_dictionary as load

    return load(str(folder), "cpu")[0]


@pytest.mark.parametrize("kind", CLASSES)
def test_dictionary_learning_both_ways(
    dictionary_learning, free, weights, x, tmp_path: Path, kind: str
) -> None:
    # load_dictionary would give the decoder of an AutoEncoder other rows: unit norm needs no change
    theirs = dictionaries(weights if kind == "AutoEncoder" else free)[kind]
    config = {"trainer": {"dict_class": kind} | ({"k": 6} if "TopK" in kind else {})}
    (tmp_path / "theirs").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "theirs" / "ae.pt")
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    loaded = load_dictionary(tmp_path / "theirs")
    model = sae.load(tmp_path / "theirs")
    agree(model, x, loaded.encode(x), loaded(x))
    folder = sae.export(model, tmp_path / "ours", format="dictionary_learning")
    again = load_dictionary(folder)
    assert type(again).__name__ == kind
    agree(model, x, again.encode(x), again(x))


OURS = {
    "relu of free norms": (sae.ReLU, {}),
    "relu without bias": (sae.ReLU, {"pre_bias": False}),
    "topk without bias": (sae.TopK, {"k": 6, "pre_bias": False}),
    "hierarchical": (sae.HierarchicalTopK, {"k": 6}),
    "jumprelu": (sae.JumpReLU, {}),
    "batch_topk of a share": (sae.BatchTopK, {"k": 5.5}),
    "matryoshka topk": (sae.Matryoshka, {"k": 6, "selection": "topk"}),
}


@pytest.mark.parametrize("name", OURS)
def test_what_dictionary_learning_has_no_class_for_keeps_its_codes(
    dictionary_learning, free, x, tmp_path: Path, name: str
) -> None:
    kind, settings = OURS[name]
    model = ours(kind, free, **settings)
    theirs = load_dictionary(sae.export(model, tmp_path, format="dictionary_learning"))
    agree(model, x, theirs.encode(x), theirs(x))


def test_an_autoencoder_of_free_norms_is_folded_by_the_library_only(
    dictionary_learning, free, x, tmp_path: Path
) -> None:
    theirs = dictionaries(free)["AutoEncoder"]
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    model = sae.load(tmp_path)
    agree(model, x, theirs.encode(x), theirs(x))
    loaded = load_dictionary(tmp_path)
    agree(sae.fold_decoder_norms(model), x, loaded.encode(x), loaded(x))
