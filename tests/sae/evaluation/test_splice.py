"""A spliced model goes on with the reconstruction, at the chosen positions, and is put back."""

import re

import pytest
import torch
from torch import Tensor, nn

import sae
from sparsecode import SparseCodes


@pytest.fixture
def model() -> sae.TopK:
    return sae.TopK(n_features=16, n_latents=48, k=4, seed=0)


def logits(lm: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return lm(tokens).logits


def by_hand(lm: nn.Module, name: str, tokens: Tensor, change) -> Tensor:
    module = dict(lm.named_modules())[name]

    def hook(_: nn.Module, __: object, out: object) -> object:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = module.register_forward_hook(hook)
    try:
        return logits(lm, tokens)
    finally:
        handle.remove()


@pytest.mark.parametrize("hookpoint", ["transformer.h.1", "h.1", "h.1.mlp", "h.0.attn"])
def test_the_output_is_that_of_a_hook_written_by_hand(gpt2_lm, model, tokens, hookpoint) -> None:
    name = f"transformer.{hookpoint.removeprefix('transformer.')}"
    expected = by_hand(gpt2_lm, name, tokens, model)
    before = logits(gpt2_lm, tokens)
    with sae.splice(gpt2_lm, hookpoint, model) as spliced:
        found = logits(gpt2_lm, tokens)
    torch.testing.assert_close(found, expected)
    assert spliced.codes is not None
    assert spliced.codes.shape == (3, 11, 48)
    assert not torch.allclose(found, before)
    torch.testing.assert_close(logits(gpt2_lm, tokens), before, rtol=0, atol=0)


def test_with_the_error_nothing_changes_but_gradients_pass(gpt2_lm, model, tokens) -> None:
    before = logits(gpt2_lm, tokens)
    with sae.splice(gpt2_lm, "h.1", model, error=True):
        found = gpt2_lm(tokens).logits
    torch.testing.assert_close(found, before, rtol=1e-4, atol=1e-4)
    found.sum().backward()
    assert model.W_enc.grad is not None
    assert bool((model.W_enc.grad != 0).any())


def test_a_change_of_the_codes_is_decoded_and_the_error_stays(gpt2_lm, model, tokens) -> None:
    def without(codes: SparseCodes) -> SparseCodes:
        return codes.with_values(codes.values * (codes.indices != 7))

    def expected(x: Tensor) -> Tensor:
        codes = model.encode(x)
        weight = codes.to_dense()[..., 7:8]
        return x - weight * model.W_dec[7]

    with torch.no_grad():
        wanted = by_hand(gpt2_lm, "transformer.h.0", tokens, expected)
        with sae.splice(gpt2_lm, "h.0", model, error=True, change=without):
            found = logits(gpt2_lm, tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_positions_that_are_not_kept_pass(gpt2_lm, model, tokens) -> None:
    before = logits(gpt2_lm, tokens)
    keep = torch.zeros(3, 11, dtype=torch.bool)
    keep[:, 6:] = True
    with sae.splice(gpt2_lm, "h.1", model) as spliced:
        spliced.keep = keep
        found = logits(gpt2_lm, tokens)
    torch.testing.assert_close(found[:, :6], before[:, :6])  # causal: the past is as it was
    assert not torch.allclose(found[:, 6:], before[:, 6:])


def test_generation_is_spliced(gpt2_lm, model, tokens) -> None:
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with sae.splice(gpt2_lm, "h.1", model):
        cached = gpt2_lm.generate(tokens, **options)
        again = gpt2_lm.generate(tokens, use_cache=False, **options)
    assert cached.tolist() == again.tolist()
    assert cached.shape == (3, 14)


def test_a_transcoder_reads_at_one_place_and_replaces_at_another(gpt2_lm, tokens) -> None:
    torch.manual_seed(0)
    model = sae.Transcoder(n_features=16, n_latents=32, k=3, skip_connection=True, seed=0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    block = gpt2_lm.transformer.h[1]
    mlp, block.mlp = block.mlp, model
    try:
        expected = logits(gpt2_lm, tokens)
    finally:
        block.mlp = mlp
    with sae.splice(gpt2_lm, "h.1.ln_2+h.1.mlp", model):
        found = logits(gpt2_lm, tokens)
    torch.testing.assert_close(found, expected)


def test_everything_is_put_back_after_an_error(gpt2_lm, model, tokens) -> None:
    model.train()
    before = logits(gpt2_lm, tokens)
    with pytest.raises(IndexError), sae.splice(gpt2_lm, "h.1", model):
        gpt2_lm(tokens + 1000)  # ids that the model does not know
    assert model.training
    torch.testing.assert_close(logits(gpt2_lm, tokens), before, rtol=0, atol=0)


def test_half_precision_stays_half(gpt2_lm, model, tokens) -> None:
    seen = []
    linear = nn.Linear(16, 16).to(torch.bfloat16)
    with sae.splice(nn.ModuleDict({"a": linear}), "a", model):
        seen.append(linear(torch.ones(2, 3, 16, dtype=torch.bfloat16)).dtype)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize(
    ("hookpoint", "message"),
    [
        ("h.9", "`hookpoints` must name modules of the GPT2LMHeadModel; 'h.9' matches none"),
        ("h.*", "`hookpoint` must name one module; 'h.*' matches 3, such as"),
        ("h.0+h.1", "`hookpoint` must name one module for TopK; got 'h.0+h.1'"),
        ("lm_head", "must have the width of the autoencoder, n_features=16; got 40"),
    ],
)
def test_wrong_hookpoints_are_refused(gpt2_lm, model, tokens, hookpoint, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)), sae.splice(gpt2_lm, hookpoint, model):
        logits(gpt2_lm, tokens)


def test_wrong_hookpoints_of_a_transcoder_are_refused(gpt2_lm, tokens) -> None:
    model = sae.Transcoder(n_features=16, n_latents=8, k=2, seed=0)
    with (
        pytest.raises(ValueError, match="must name an input and an output for Transcoder"),
        sae.splice(gpt2_lm, "h.1.mlp", model),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"runs before the one to replace; 'transformer.h.2' did"),
        sae.splice(gpt2_lm, "h.2+h.1.mlp", model),
    ):
        logits(gpt2_lm, tokens)


def test_a_wrong_target_width_is_refused(gpt2_lm, tokens) -> None:
    model = sae.Transcoder(n_features=16, n_targets=5, n_latents=8, k=2, seed=0)
    with (
        pytest.raises(ValueError, match="must have the shape of what it replaces"),
        sae.splice(gpt2_lm, "h.1.ln_2+h.1.mlp", model),
    ):
        logits(gpt2_lm, tokens)


def test_a_wrong_mask_is_refused(gpt2_lm, model, tokens) -> None:
    with sae.splice(gpt2_lm, "h.1", model) as spliced:
        spliced.keep = torch.ones(3, 4, dtype=torch.bool)
        with pytest.raises(
            ValueError, match=r"`keep` must have shape .* = \(3, 11\); got \(3, 4\)"
        ):
            logits(gpt2_lm, tokens)


def test_models_that_cannot_stand_in_are_refused(gpt2_lm) -> None:
    with (
        pytest.raises(TypeError, match="`model` must be an autoencoder such as"),
        sae.splice(gpt2_lm, "h.1", nn.Linear(16, 16)),  # type: ignore[arg-type]
    ):
        pass
    bilinear = sae.Bilinear(n_features=16, n_latents=8)
    with (
        pytest.raises(TypeError, match="Bilinear reconstructs products of them"),
        sae.splice(gpt2_lm, "h.1", bilinear),
    ):
        pass
    crosscoder = sae.Crosscoder(n_features=16, n_latents=8, widths=[8, 8], k=2)
    with (
        pytest.raises(TypeError, match="this Crosscoder reads 2, of which the later"),
        sae.splice(gpt2_lm, "h.1", crosscoder),
    ):
        pass
