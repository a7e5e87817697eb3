"""Folding changes units only: reconstructions and selected latents stay."""

import inspect

import pytest
import torch

import sae
from sae.autoencoders import AUTOENCODERS

SCALES = {"one": torch.tensor(0.04), "each": torch.linspace(0.02, 3.0, 7)}
AFFINE = [name for name in AUTOENCODERS if "bilinear" not in name]


def made(name: str) -> sae.AbstractAutoencoder:
    """A model of the architecture with weights of a trained look."""
    known = inspect.signature(AUTOENCODERS[name]).parameters
    settings = {"n_features": 7, "n_latents": 40, "k": 4, "target_l0": 4, "seed": 0}
    model = AUTOENCODERS[name](**{key: v for key, v in settings.items() if key in known})
    noise = torch.Generator().manual_seed(1)
    model.initialize(rows(model))
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.1 * parameter.std() if parameter.numel() > 1 else 0.0
            parameter.add_(size * torch.randn(parameter.shape, generator=noise))
    return model.eval()


def rows(model) -> torch.Tensor:
    drawn = torch.randn(200, model.row_width, generator=torch.Generator().manual_seed(2))
    return drawn + 0.5


def same_latents(first, second) -> bool:
    return torch.equal(first.to_dense() != 0, second.to_dense() != 0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", AFFINE)
def test_the_scale_of_the_input_folds_into_every_architecture(name, scale):
    model = made(name)
    if scale == "each" and name == "k_sparse":
        with pytest.raises(ValueError, match=r"`scale` must be one number for KSparse, whose"):
            sae.fold_input_scale(model, SCALES[scale])
        return
    factors = SCALES[scale].expand(7).repeat(model.row_width // 7)
    x, _ = model.input_and_target(rows(model))
    to_input, to_target = model.input_and_target(factors)
    folded = sae.fold_input_scale(model, factors)
    want = model(x * to_input).detach() / to_target
    torch.testing.assert_close(folded(x), want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    assert same_latents(folded.encode(x), model.encode(x * to_input))


def test_one_scale_leaves_weights_and_norms_and_gives_codes_the_unit_of_the_rows():
    model = made("batch_topk")
    folded = sae.fold_input_scale(model, 0.25)
    assert torch.equal(folded.W_dec, model.W_dec)
    assert torch.equal(folded.W_enc, model.W_enc)
    assert torch.equal(folded.b_dec, 4 * model.b_dec)
    assert torch.equal(folded.threshold, 4 * model.threshold)
    x = rows(model)
    codes = folded.encode(x).to_dense()
    torch.testing.assert_close(codes, 4 * model.encode(x / 4).to_dense())


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated"])
def test_decoder_norms_fold_where_latents_are_selected_by_themselves(name):
    model, x = made(name), None
    with torch.no_grad():
        model.W_dec.mul_(torch.linspace(0.1, 4.0, 40)[:, None])
        model.W_dec[3] = 0.0
    x = rows(model)
    folded = sae.fold_decoder_norms(model)
    norms = torch.linalg.vector_norm(folded.W_dec, dim=1)
    torch.testing.assert_close(norms, torch.ones(40).index_fill(0, torch.tensor([3]), 0.0))
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert same_latents(folded.encode(x), model.encode(x))


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka", "hierarchical_topk"])
def test_one_norm_for_all_rows_folds_where_latents_compete(name):
    model = made(name)
    with torch.no_grad():
        model.W_dec.mul_(3.0 / torch.linalg.vector_norm(model.W_dec, dim=1, keepdim=True))
    x = rows(model)
    folded = sae.fold_decoder_norms(model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)
    assert same_latents(folded.encode(x), model.encode(x))
    torch.testing.assert_close(torch.linalg.vector_norm(folded.W_dec, dim=1), torch.ones(40))


def test_other_norms_would_select_other_latents_and_are_refused():
    model = made("topk")
    with torch.no_grad():
        model.W_dec[0] *= 2.0
    with pytest.raises(ValueError, match="decoder rows must have one norm to be folded in TopK"):
        sae.fold_decoder_norms(model)


def test_tied_weights_keep_their_norms():
    model = sae.KSparse(n_features=5, n_latents=9, k=2, seed=0)
    torch.testing.assert_close(sae.fold_decoder_norms(model).W_enc, model.W_enc)
    with torch.no_grad():
        model.W_enc.mul_(2.0)
    with pytest.raises(ValueError, match="decoder norms cannot be folded in KSparse, whose"):
        sae.fold_decoder_norms(model)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_must_be_positive(scale):
    model = sae.TopK(n_features=5, n_latents=9, k=2, seed=0)
    with pytest.raises(ValueError, match=r"`scale` must be positive and finite; got values from"):
        sae.fold_input_scale(model, scale)


def test_a_scale_must_fit_the_rows():
    model = sae.TopK(n_features=5, n_latents=9, k=2, seed=0)
    with pytest.raises(ValueError, match=r"`scale` must have shape .row_width.* = .5,.; got .4,."):
        sae.fold_input_scale(model, torch.ones(4))


def test_an_encoder_of_unknown_form_is_refused():
    class Curved(sae.AbstractAutoencoder):
        def __init__(self):
            super().__init__(5, 9)
            self.curvature = torch.nn.Parameter(torch.ones(9))

        def encode(self, x, *, k=None):
            raise NotImplementedError

        def loss_terms(self, x, target, *, dead_latents=None):
            raise NotImplementedError

    for fold in (
        lambda: sae.fold_decoder_norms(sae.Bilinear(n_features=5, n_latents=9)),
        lambda: sae.fold_input_scale(Curved(), 2.0),
        lambda: sae.fold_decoder_norms(Curved()),
    ):
        with pytest.raises(TypeError, match=r"cannot be folded: how (curvature|left, right)"):
            fold()
