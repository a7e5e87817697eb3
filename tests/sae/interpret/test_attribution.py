"""Attributions: first order at the point, complete along the path, exact one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sae
from sae.interpret import ablate, ablation_effects, attribute


def metric(out: Any) -> Tensor:
    return out.logits[:, -1, 7] - out.logits[:, -1, 9]


def test_the_gradient_is_the_first_order_effect_of_scaling_a_latent(gpt2_lm, model, tokens) -> None:
    found = attribute(gpt2_lm, tokens, "h.1", model, metric)
    effects = found.by_latent()
    assert found.codes.shape == (3, 9, 48)
    latent = int(effects.abs().argmax())
    values = []
    for scale in (0.99, 1.01):
        with sae.steer(gpt2_lm, "h.1", model, latent, scale, mode="scale"), torch.no_grad():
            values.append(float(metric(gpt2_lm(tokens)).sum()))
    assert float(effects[latent]) == pytest.approx((values[1] - values[0]) / 0.02, rel=0.02)


def test_integrated_gradients_add_up(gpt2_lm, model, tokens) -> None:
    found = attribute(gpt2_lm, tokens, "h.1", model, metric, method="integrated", steps=64)

    def nothing(codes: Any) -> Any:
        return codes.with_values(codes.values * 0)

    with torch.no_grad():
        whole = float(metric(gpt2_lm(tokens)).sum())
        with sae.splice(gpt2_lm, "h.1", model, error=True, change=nothing):
            without = float(metric(gpt2_lm(tokens)).sum())
    assert float(found.by_latent().sum()) == pytest.approx(whole - without, rel=0.02)
    assert abs(whole - without) > 0.05


def test_ablation_is_exact_and_agrees_with_the_gradient_where_that_is_linear(
    gpt2_lm, model, tokens
) -> None:
    found = ablation_effects(gpt2_lm, tokens, "h.1", model, metric, [3, 11])
    with torch.no_grad():
        whole = float(metric(gpt2_lm(tokens)).sum())
        for place, latent in enumerate((3, 11)):
            with ablate(gpt2_lm, "h.1", model, latent):
                left = float(metric(gpt2_lm(tokens)).sum())
            assert float(found[place]) == pytest.approx(whole - left)

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Embedding(40, 16), nn.Linear(16, 5)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.inner(input_ids))

    lm = Linear()
    for method in ("gradient", "integrated"):
        exact = ablation_effects(lm, tokens, "inner", model, lambda out: out[..., 2], range(48))
        linear = attribute(lm, tokens, "inner", model, lambda out: out[..., 2], method=method)
        torch.testing.assert_close(exact, linear.by_latent(), rtol=1e-3, atol=1e-4)


def test_what_the_codes_do_not_reach_is_not_due_to_them(gpt2_lm, model, tokens) -> None:
    def early(out: Any) -> Tensor:
        return gpt2_lm.transformer.wte(tokens)

    assert not bool(attribute(gpt2_lm, tokens, "h.1", model, early).by_latent().any())


def test_masked_tokens_are_seen_as_such(gpt2_lm, model, tokens) -> None:
    mask = torch.ones_like(tokens)
    mask[:, -3:] = 0

    def before_the_padding(out: Any) -> Tensor:
        return out.logits[:, 5, 7]

    padded = attribute(
        gpt2_lm, tokens, "h.1", model, before_the_padding, attention_mask=mask
    ).by_latent()
    short = attribute(gpt2_lm, tokens[:, :6], "h.1", model, before_the_padding).by_latent()
    torch.testing.assert_close(padded, short, rtol=1e-3, atol=1e-4)
    exact = ablation_effects(
        gpt2_lm, tokens, "h.1", model, before_the_padding, [1], attention_mask=mask
    )
    assert exact.shape == (1,)


def test_nothing_of_the_model_is_changed(gpt2_lm, model, tokens) -> None:
    attribute(gpt2_lm, tokens, "h.1", model, metric)
    assert all(parameter.grad is None for parameter in gpt2_lm.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_wrong_arguments_are_refused(gpt2_lm, model, tokens) -> None:
    with pytest.raises(ValueError, match="`method` must be one of 'gradient', 'integrated'"):
        attribute(gpt2_lm, tokens, "h.1", model, metric, method="exact")
    with pytest.raises(TypeError, match="`metric` must return a floating tensor; got float"):
        ablation_effects(gpt2_lm, tokens, "h.1", model, lambda out: 3.0, [1])
    with pytest.raises(ValueError, match="`steps` must be an int in"):
        attribute(gpt2_lm, tokens, "h.1", model, metric, method="integrated", steps=0)


def test_inference_mode_has_no_gradients(gpt2_lm, model, tokens) -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="`attribute` needs gradients"):
        attribute(gpt2_lm, tokens, "h.1", model, metric)
    with torch.no_grad():
        assert attribute(gpt2_lm, tokens, "h.1", model, metric).by_latent().any()


@pytest.mark.parametrize("row_norm", ["layer_norm", "unit_norm"])
def test_attribution_and_ablation_agree_where_rows_are_normalized(gpt2_lm, tokens, row_norm):
    """For small codes the effect is linear, so that both are the same number."""
    model = sae.TopK(n_features=16, n_latents=48, k=4, seed=0, row_norm=row_norm)
    with torch.no_grad():
        model.W_dec *= 1e-3
    effects = attribute(gpt2_lm, tokens, "h.1", model, metric).by_latent()
    latents = effects.abs().topk(3).indices.tolist()
    exact = ablation_effects(gpt2_lm, tokens, "h.1", model, metric, latents)
    torch.testing.assert_close(effects[latents], exact.to(effects), rtol=0.05, atol=1e-5)
