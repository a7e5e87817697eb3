"""Tiny language models with random weights, and autoencoders that fit between their layers."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

import sae


@pytest.fixture(scope="session")
def gpt2_lm() -> GPT2LMHeadModel:
    """A causal model whose token 0 begins and ends texts."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = GPT2Config(
            vocab_size=40, n_embd=16, n_layer=3, n_head=2, n_positions=32, initializer_range=0.3,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="session")
def bert_lm() -> BertForMaskedLM:
    """A masked model: 1 is padding, 2 and 3 frame a text."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=32, initializer_range=0.3,
            pad_token_id=1, bos_token_id=2, eos_token_id=3,
        )  # fmt: skip
        return BertForMaskedLM(config).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(4, 40, (3, 11), generator=generator)


@pytest.fixture
def planted() -> tuple[sae.TopK, torch.Tensor, np.ndarray]:
    """Rows in which latent 3, 11 or 20 of an orthonormal dictionary gives the class."""
    model = sae.TopK(n_features=32, n_latents=32, k=4, seed=0)
    with torch.no_grad():
        model.W_dec.copy_(torch.linalg.qr(torch.randn(32, 32))[0])
        model.W_enc.copy_(model.W_dec.T)
    y = torch.arange(600) % 3
    codes = torch.zeros(600, 32)
    codes.scatter_(1, torch.randint(24, 32, (600, 3)), torch.rand(600, 3) + 0.5)
    codes[torch.arange(600), torch.tensor([3, 11, 20])[y]] = 2.0
    return model, codes @ model.W_dec.detach(), y.numpy()
