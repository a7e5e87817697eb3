"""A tiny BERT in a folder, and a cache of its activations: nothing is downloaded, all is fast."""

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import sae.cache
from sae.cache import Cache
from sparsecode import io

MEMORY = Path("/dev/shm")
EVIL = "</script><img src=x onerror=window.hacked=1>"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "the",
    "king",
    "##dom",
    "'",
    "s",
    "cat",
    "play",
    "##ing",
    "sat",
    "on",
    "a",
    "mat",
    ",",
    ".",
]
VOCABULARY = [*SPECIAL, *WORDS, EVIL]
TEXTS = [
    "the king ' s cat sat on a mat .",
    "the kingdom , the cat , the mat .",
    "a playing king sat on the cat .",
    "playing on , playing on the mat , a cat ' s king .",
] * 12


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: no process that dies loses what it wrote to a file.

    A test that saves thousands of times would wait for the disk each time, and learn nothing.
    """
    if os.access(MEMORY, os.W_OK):
        with tempfile.TemporaryDirectory(prefix="sparsecode-", dir=MEMORY) as folder:
            yield Path(folder)
    else:
        yield tmp_path_factory.mktemp("runs")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny models, whose threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], dict]:
    """Everything that a run leaves but the time and the name of the run."""

    def read(folder: Path) -> dict:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        clock = {"wall_time", "tokens_per_second"}
        return {
            "metrics": [{k: v for k, v in row.items() if k not in clock} for row in lines],
            "evaluation": io.read_json(folder / "evaluation.json"),
            "weights": {p.name: p.read_bytes() for p in (folder / "model").glob("weights*")},
            "state": {p.name for p in (folder / "checkpoint").glob("tensors*")},  # named by digest
        }

    return read


@pytest.fixture(scope="session")
def press_ctrl_c() -> Callable[[sae.AbstractAutoencoder, int], None]:
    """Let Ctrl-C be pressed when the loss of a model is asked for the nth time."""

    def prepare(model: sae.AbstractAutoencoder, at: int) -> None:
        inner, calls = model.loss_terms, []

        def loss_terms(*args, **kwargs):
            calls.append(None)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGINT)
            return inner(*args, **kwargs)

        model.loss_terms = loss_terms

    return prepare


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user would have one: weights, configuration and a WordPiece tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    words = Tokenizer(WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(TEXTS))
    return path


@pytest.fixture(scope="session")
def word_cache(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Activations of TEXTS, and of one document that holds the evil token."""
    out = tmp_path_factory.mktemp("cache") / "activations"
    hookpoints = ["encoder.layer.0", "encoder.layer.1"]
    sae.cache.write(bert_folder, TEXTS, hookpoints, out, context_length=12)
    evil = VOCABULARY.index(EVIL)
    ids = [[2, 4, 5, evil, 9, 3]] * 4
    return sae.cache.write(bert_folder, ids, hookpoints, out, context_length=12, append=True)
