"""The logit lens reads rows with the model's own head, whatever norm stands before it."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

import sae
from sae.interpret import direction_logits, logit_lens


def test_logits_are_those_of_the_norm_and_the_head(gpt2_lm, model) -> None:
    found = logit_lens(gpt2_lm, model, n=3, chunk_size=7)
    norm, head = gpt2_lm.transformer.ln_f, gpt2_lm.lm_head.weight
    with torch.no_grad():
        logits = (norm(model.W_dec) - norm.bias) @ head.t()
    logits = logits - logits.mean(1, keepdim=True)
    expected = logits.topk(3, dim=1)
    assert found.top_tokens.tolist() == expected.indices.tolist()
    torch.testing.assert_close(found.top_logits, expected.values)
    lowest = logits.topk(3, dim=1, largest=False)
    assert found.bottom_tokens.tolist() == lowest.indices.tolist()
    torch.testing.assert_close(found.bottom_logits, lowest.values)


def test_histograms_are_those_of_numpy(gpt2_lm, model) -> None:
    found = logit_lens(gpt2_lm, model, n=1, chunk_size=7)
    logits = direction_logits(gpt2_lm, model.W_dec).double().numpy()
    for latent in range(48):
        counts, edges = np.histogram(logits[latent], bins=50)
        # An entry on an edge may fall to either side of it in float32.
        assert np.abs(np.cumsum(counts) - found.bar_counts[latent].cumsum(0).numpy()).max() <= 1
        middles = (edges[:-1] + edges[1:]) / 2
        np.testing.assert_allclose(found.bar_centers[latent].numpy(), middles, atol=1e-4)
    assert (found.bar_counts.sum(1) == 40).all()


def test_without_the_norm_and_for_some_latents(gpt2_lm, model) -> None:
    found = logit_lens(gpt2_lm, model, torch.tensor([5, 2]), n=1, final_norm=False)
    logits = model.W_dec[[5, 2]] @ gpt2_lm.lm_head.weight.t()
    assert found.top_tokens.tolist() == logits.argmax(1, keepdim=True).tolist()
    assert found.bottom_tokens.shape == (2, 1)


def test_a_root_mean_square_norm_and_one_inside_a_decoder(model) -> None:
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(LlamaConfig(intermediate_size=16, num_key_value_heads=2, **sizes))
    opt = OPTForCausalLM(OPTConfig(ffn_dim=16, word_embed_proj_dim=16, **sizes))
    norms = (llama.model.norm, opt.model.decoder.final_layer_norm)
    for lm, norm in zip((llama, opt), norms, strict=True):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        with torch.no_grad():
            logits = norm(model.W_dec[:4]) @ lm.get_output_embeddings().weight.t()
        expected = logits - logits.mean(1, keepdim=True)
        torch.testing.assert_close(direction_logits(lm, model.W_dec[:4]), expected)


def test_what_cannot_be_read_is_refused(gpt2_lm) -> None:
    with pytest.raises(ValueError, match="`lm` must have an output embedding, as causal"):
        direction_logits(nn.Linear(4, 4), torch.eye(4))
    wide = sae.TopK(n_features=5, n_latents=8, k=1)
    with pytest.raises(ValueError, match=r"`W_dec` must have shape .* = \(..., 16\); got \(8, 5\)"):
        logit_lens(gpt2_lm, wide)
