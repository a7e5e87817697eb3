"""A small masked language model with a tokenizer of whole words, made in place."""

from typing import Any

import pytest
import torch

WORDS = [
    "the",
    "a",
    "of",
    "cat",
    "dog",
    "horse",
    "bird",
    "sits",
    "runs",
    "sleeps",
    "flies",
    "eats",
    "red",
    "blue",
    "green",
    "small",
    "large",
    "house",
    "tree",
    "river",
    "on",
    "in",
    "under",
    "near",
    "?",
]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A tokenizer that knows the words above."""
    pytest.importorskip("transformers", reason="needs pip install 'sparsecode[llm]'")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: i for i, token in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


@pytest.fixture
def mlm(tokenizer: Any) -> Any:
    """A BERT with two layers of width 32 and random weights."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    return BertForMaskedLM(config)
