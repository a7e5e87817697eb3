"""Loading models, and saying which ones they were."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import BertModel, GPT2Model

import sae.cache
from sae.cache import Cache
from sae.cache.models import Loaded, load


def test_a_model_from_a_folder_with_its_tokenizer(
    bert: nn.Module, bert_tokenizer: Any, write: Callable[..., Cache], tmp_path: Path
) -> None:
    bert.save_pretrained(tmp_path / "model")
    bert_tokenizer.save_pretrained(tmp_path / "model")
    cache = sae.cache.write(
        tmp_path / "model", ["the cat sat on a mat"], "encoder.layer.[01]", tmp_path / "read",
        dtype="float32", device="cpu", progress=False,
    )  # fmt: skip
    expected = write(["the cat sat on a mat"], dtype="float32", context_length=32)
    torch.testing.assert_close(cache.rows(0, 6), expected.rows(0, 6))
    assert cache.provenance["model"]["fingerprint"] == expected.provenance["model"]["fingerprint"]
    assert cache.provenance["model"]["name"] == str(tmp_path / "model")
    assert cache.provenance["context_length"] == 32


def test_a_model_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`model` must be a transformers .*could not be loaded"):
        sae.cache.write(tmp_path / "no model", ["a"], "x", tmp_path / "acts")
    with pytest.raises(TypeError, match="`model` must be a name, a folder or a torch module"):
        sae.cache.write(3, ["a"], "x", tmp_path / "acts")  # type: ignore[arg-type]


def test_another_model_is_refused(write: Callable[..., Cache], bert: nn.Module) -> None:
    write()
    weight = bert.encoder.layer[0].output.dense.weight
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        with pytest.raises(ValueError, match=r"model.fingerprint="):
            write(append=True)
    finally:
        with torch.no_grad():
            weight[0, 0] -= 1


def loaded(model: nn.Module, tokenizer: Any = None) -> Loaded:
    return load(model, tokenizer, None)[0]


def test_contexts_are_no_longer_than_the_model_allows(bert: nn.Module, bert_tokenizer: Any) -> None:
    assert loaded(bert).context_length(None) == 32
    assert loaded(bert).context_length(7) == 7
    with pytest.raises(ValueError, match=r"`context_length` must be an int in .*model's longest"):
        loaded(bert).context_length(33)
    assert loaded(nn.Linear(1, 1)).context_length(None) == 256
    assert loaded(nn.Linear(1, 1)).context_length(100_000) == 100_000
    limited = type(bert_tokenizer)(tokenizer_object=bert_tokenizer._tokenizer, model_max_length=9)
    assert loaded(bert, limited).context_length(None) == 9


def test_special_tokens_frame_texts(
    bert: nn.Module, bert_tokenizer: Any, gpt2: nn.Module, gpt2_tokenizer: Any
) -> None:
    assert loaded(bert, bert_tokenizer).special_ids == {1, 2, 3}  # the unknown word stays
    assert loaded(bert, bert_tokenizer).pad_id == 1
    assert loaded(bert).special_ids == {0}  # the padding of its configuration
    assert loaded(gpt2, gpt2_tokenizer).special_ids == loaded(gpt2).special_ids == {0}
    assert loaded(gpt2, gpt2_tokenizer).pad_id is None
    assert loaded(nn.Linear(1, 1)).special_ids == set()


def test_fingerprints_tell_models_and_tokenizers_apart(
    bert: nn.Module, bert_tokenizer: Any, gpt2_tokenizer: Any
) -> None:
    found = loaded(bert, bert_tokenizer).provenance()
    assert found == loaded(bert, bert_tokenizer).provenance()
    assert found["model"] == loaded(bert).provenance()["model"]
    assert found["model"]["type"] == "bert"
    assert found["model"]["dtype"] == "float32"
    assert loaded(bert).provenance()["tokenizer"] is None
    other = loaded(bert, gpt2_tokenizer).provenance()["tokenizer"]
    assert other["fingerprint"] != found["tokenizer"]["fingerprint"]
    half = loaded(copy.deepcopy(bert).bfloat16()).provenance()["model"]
    assert half["dtype"] == "float32"  # what it is computed in; its values are rounded
    assert half["fingerprint"] != found["model"]["fingerprint"]


def test_a_model_goes_back_to_its_device() -> None:
    model = nn.Linear(1, 1)
    moved, put_back = load(model, None, "meta")
    assert next(moved.model.parameters()).device.type == "meta"
    model.to_empty(device="cpu")
    put_back()
    assert model.weight.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_a_cpu_is_computed_in_float32(bert: nn.Module, dtype: Any) -> None:
    half = copy.deepcopy(bert).to(dtype)
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in half.state_dict().items()}
    running, put_back = load(half, None, None)
    ids = torch.randint(4, 20, (2, 7))
    with torch.no_grad():
        expected = copy.deepcopy(half).float().eval()(ids).last_hidden_state
        found = running.model.eval()(ids).last_hidden_state
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert running.provenance()["model"]["dtype"] == "float32"
    put_back()
    after = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in half.state_dict().items()}
    assert after == before


@pytest.mark.parametrize(
    ("trained", "expected"),
    [("BertForMaskedLM", "BertForMaskedLM"), ("GPT2LMHeadModel", "GPT2LMHeadModel")],
)
def test_a_model_keeps_its_head_where_it_is_wanted(
    bert: BertModel, gpt2: GPT2Model, tmp_path: Path, trained: str, expected: str
) -> None:
    body = bert if trained.startswith("Bert") else gpt2
    getattr(transformers, trained)(body.config).save_pretrained(tmp_path)
    found, _ = load(tmp_path, None, None, with_head=True)
    assert type(found.model).__name__ == expected
    bare, _ = load(tmp_path, None, None)
    assert type(bare.model) is type(body)


def test_a_model_that_was_trained_without_a_head_has_none(bert: BertModel, tmp_path: Path) -> None:
    bert.save_pretrained(tmp_path)
    found, _ = load(tmp_path, None, None, with_head=True)
    assert type(found.model) is BertModel
    assert found.longest_context == 32
