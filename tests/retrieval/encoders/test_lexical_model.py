import copy
from typing import Any

import numpy as np
import pytest
import torch

from retrieval import InferenceFreeEncoder, SpladeEncoder
from retrieval.encoders.lexical_model import LexicalModel, padded_rows, token_activations


def test_activations_by_hand() -> None:
    logits = torch.randn(2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    found = token_activations(logits, mask)
    first = np.log1p(np.maximum(logits[0, :2].numpy().max(0), 0))
    np.testing.assert_allclose(found[0].numpy(), first, rtol=1e-6)
    for n_logs in (2, 3):
        np.testing.assert_allclose(
            token_activations(logits, mask, n_logs).numpy(),
            np.log1p(token_activations(logits, mask, n_logs - 1).numpy()),
            rtol=1e-6,
        )


def test_rows_are_filled_up() -> None:
    assert padded_rows([[5], [7, 8]]).tolist() == [[5, -1], [7, 8]]
    assert padded_rows([]).shape == (0, 1)


def test_texts_do_not_depend_on_their_company(mlm: Any, tokenizer: Any) -> None:
    model = LexicalModel(mlm, tokenizer, n_logs=1, max_length=16)
    texts = ["the cat sits on the house", "a dog", "", "the red bird flies near a large tree"]
    whole = model.encode(texts, None, 2).toarray()
    alone = np.concatenate([model.encode([text], None, 1).toarray() for text in texts])
    np.testing.assert_allclose(whole, alone, atol=1e-5)
    assert whole.shape == (4, len(tokenizer))
    assert (whole > 0).any(1).all()
    assert model.encode([], None, 4).shape == (0, len(tokenizer))
    assert model.encode(texts, 3, 4).getnnz(axis=1).tolist() == [3, 3, 3, 3]
    assert model.token_names([5, 8]) == ["the", "cat"]


def test_long_texts_are_cut(mlm: Any, tokenizer: Any) -> None:
    model = LexicalModel(mlm, tokenizer, n_logs=1, max_length=5)
    same = model.encode(["the cat sits on the house", "the cat sits"], None, 2)
    assert abs(same[0] - same[1]).max() < 1e-6


def test_wrong_texts_and_models_are_refused(mlm: Any, tokenizer: Any) -> None:
    model = LexicalModel(mlm, tokenizer, n_logs=1, max_length=5)
    with pytest.raises(TypeError, match="must be a sequence of str; got a single str"):
        model.encode("the cat", None, 2)
    with pytest.raises(TypeError, match="must be a sequence of str; got int in it"):
        model.encode(["the cat", 3], None, 2)
    with pytest.raises(ValueError, match="`tokenizer` must be given beside a model"):
        LexicalModel(mlm, None, n_logs=1, max_length=5)
    with pytest.raises(ValueError, match="`n_logs` must be an int in"):
        LexicalModel(mlm, tokenizer, n_logs=0, max_length=5)


def test_no_more_tokens_are_read_than_the_model_has_places(mlm: Any, tokenizer: Any) -> None:
    encoder = SpladeEncoder(mlm, tokenizer, max_length=256)
    assert encoder.documents.max_length == 32
    long = "the cat sits near the river " * 20
    assert encoder.encode_documents([long]).shape == (1, len(tokenizer))


def test_what_does_not_belong_together_is_refused(mlm: Any, tokenizer: Any) -> None:
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["zebra"])
    with pytest.raises(ValueError, match="`tokenizer` must have at most as many tokens as the mod"):
        SpladeEncoder(mlm, larger)
    with pytest.raises(ValueError, match="`idf` must hold finite weights; got NaN"):
        InferenceFreeEncoder(mlm, tokenizer, idf={"cat": float("nan")})
