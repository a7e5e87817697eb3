"""A tiny causal model with random weights, and rows whose codes are known."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import sae


@pytest.fixture(scope="session")
def gpt2_lm() -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = GPT2Config(
            vocab_size=40, n_embd=16, n_layer=3, n_head=2, n_positions=32, initializer_range=0.3,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        lm = GPT2LMHeadModel(config).eval()
        for parameter in lm.transformer.ln_f.parameters():
            torch.nn.init.normal_(parameter, 0.7, 0.3)
        return lm


@pytest.fixture
def model() -> sae.TopK:
    return sae.TopK(n_features=16, n_latents=48, k=4, seed=0)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(5))
