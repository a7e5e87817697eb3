"""Tiny transformers with tokenizers of their own: nothing is downloaded, all is fast."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast

import sae.cache
from sae.cache import Cache

SENTENCE = "the cat sat on a mat and dog ran to red house while birds sang of old days"
WORDS = SENTENCE.split()
TEXTS = [
    " ".join(WORDS[(3 * i + j * (1 + i % 4)) % len(WORDS)] for j in range(1 + (5 * i) % 13))
    for i in range(24)
]


def make_tokenizer(special: list[str], template: bool) -> Any:
    names = [*special, *WORDS]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.pre_tokenizer = Whitespace()
    if template:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return tokenizer


@pytest.fixture(scope="session")
def bert() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    return BertModel(config)


@pytest.fixture(scope="session")
def bert_tokenizer() -> PreTrainedTokenizerFast:
    names = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"]
    return PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(names, template=True),
        unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip


@pytest.fixture(scope="session")
def gpt2() -> GPT2Model:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=32,
        n_embd=16,
        n_layer=3,
        n_head=2,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2Model(config)


@pytest.fixture(scope="session")
def gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """Without a padding token and without special tokens around a text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(["<end>"], template=False),
        bos_token="<end>", eos_token="<end>", unk_token="<end>",
    )  # fmt: skip


@pytest.fixture
def write(bert: BertModel, bert_tokenizer: Any, tmp_path: Path) -> Callable[..., Cache]:
    """`sae.cache.write` with the small model, two hookpoints and small shards by default."""

    def call(texts: Any = TEXTS, **options: Any) -> Cache:
        settings = {
            "hookpoints": ["encoder.layer.[01]"],
            "out": tmp_path / "acts",
            "tokenizer": bert_tokenizer,
            "context_length": 8,
            "batch_size": 2,
            "shard_rows": 60,
            "progress": False,
        }
        return sae.cache.write(bert, texts, **(settings | options))

    return call


@pytest.fixture
def texts() -> list[str]:
    """What `write` caches unless it is given other texts."""
    return list(TEXTS)


@pytest.fixture
def cache(write: Callable[..., Cache]) -> Cache:
    """A float32 cache of three shards, opened at the first of two hookpoints."""
    return write(dtype="float32").at("encoder.layer.0")


@pytest.fixture
def blocks(write: Callable[..., Cache], monkeypatch: pytest.MonkeyPatch) -> Cache:
    """A cache with blocks of few rows, as a large one has for each shard."""
    monkeypatch.setattr("sae.cache.format.BLOCK_BYTES", 300)
    cache = write(hookpoints="encoder.layer.1", dtype="float32", shard_rows=40)
    assert len(cache._ends) > 25
    return cache


class PowerCut(BaseException):
    """What a writer dies of when the operating system fails under it."""


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int) -> list[str]:
    """Let the operating system fail at the given change of a file's name; return the changes."""
    steps: list[str] = []

    def failing(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, *args: Any, **keywords: Any) -> Any:
            if len(steps) == step:
                raise PowerCut
            steps.append(str(args[0] if args else source))
            return change(source, *args, **keywords)

        return call

    monkeypatch.setattr(os, "replace", failing(os.replace))
    monkeypatch.setattr(os, "unlink", failing(os.unlink))
    return steps


@pytest.fixture
def cut() -> Callable[[int], AbstractContextManager[list[str]]]:
    """Give a context in which the writer dies at a change of a file's name.

    It lists the changes before, and "cut" if it came to that.
    """

    @contextmanager
    def dying(step: int) -> Iterator[list[str]]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = cut_at(monkeypatch, step)
            try:
                yield steps
            except PowerCut:
                steps.append("cut")

    return dying


@pytest.fixture
def interrupted(write: Callable[..., Cache], tmp_path: Path) -> Path:
    """A cache that was cut off with two shards in the journal."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        cut_at(monkeypatch, 13)
        with pytest.raises(PowerCut):
            write()
    out = tmp_path / "acts"
    assert {path.name for path in (out / "journal").glob("0*")} == {"000000.json", "000001.json"}
    return out
