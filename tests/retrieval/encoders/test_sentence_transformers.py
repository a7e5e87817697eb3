"""The files alone; tests/comparison/test_sentence_transformers.py reads them with the package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import (
    ContrastiveSparseEncoder,
    FlopsEncoder,
    InferenceFreeEncoder,
    SpladeEncoder,
    load_encoder,
)
from retrieval.encoders.sentence_transformers import (
    _max_length,
    read_sparse_encoder,
    write_sparse_encoder,
)

TEXTS = ["the cat sits", "a dog runs near the river"]


def test_texts_both_ways(mlm: Any, tokenizer: Any, tmp_path: Path) -> None:
    free = InferenceFreeEncoder(mlm, tokenizer, idf={"cat": 3.0}, n_logs=2, max_length=9)
    splade = SpladeEncoder(mlm, tokenizer, max_length=7)
    for name, encoder in (("free", free), ("splade", splade)):
        loaded = load_encoder(write_sparse_encoder(encoder, tmp_path / name))
        assert type(loaded) is type(encoder)
        assert loaded.documents.n_logs == encoder.documents.n_logs
        assert loaded.documents.max_length == encoder.documents.max_length
        for method in ("encode_documents", "encode_queries"):
            difference = getattr(loaded, method)(TEXTS) - getattr(encoder, method)(TEXTS)
            assert abs(difference).max() < 1e-6


def test_a_table_of_idf_in_json_is_read(mlm: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoder = InferenceFreeEncoder(mlm, tokenizer)
    folder = write_sparse_encoder(encoder, tmp_path / "free")
    table = folder / "query_0_SparseStaticEmbedding"
    (table / "model.safetensors").unlink()
    (table / "config.json").write_text(json.dumps({"frozen": True, "path": "idf.json"}))
    (table / "idf.json").write_text(json.dumps({"cat": 4.5, "nowhere": 1.0}))
    rows = load_encoder(folder).encode_queries(["the cat"])
    assert rows.data.tolist() == [4.5]
    assert tokenizer.convert_ids_to_tokens(rows.indices.tolist()) == ["cat"]


def test_codes_of_embeddings_both_ways(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    encoder = ContrastiveSparseEncoder(12, k=3, normalize=False, max_steps=2, device="cpu").fit(x)
    loaded = read_sparse_encoder(write_sparse_encoder(encoder, tmp_path / "sae"))
    codes = encoder.transform(x)
    assert (loaded.transform(x) != codes).nnz == 0
    np.testing.assert_allclose(loaded.inverse_transform(codes), encoder.inverse_transform(codes))


def test_what_those_files_cannot_say_is_refused(mlm: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`n_logs` must be 1 or 2 in files of sentence-tr"):
        write_sparse_encoder(SpladeEncoder(mlm, tokenizer, n_logs=3), tmp_path / "three")
    with pytest.raises(TypeError, match=r"must be a SpladeEncoder, an .*; got FlopsEncoder"):
        write_sparse_encoder(FlopsEncoder(), tmp_path / "flops")
    folder = write_sparse_encoder(SpladeEncoder(mlm, tokenizer), tmp_path / "splade")
    with pytest.raises(FileExistsError, match="must be empty; it holds files"):
        write_sparse_encoder(SpladeEncoder(mlm, tokenizer), folder)
    pooling = folder / "1_SpladePooling" / "config.json"
    settings = json.loads(pooling.read_text())
    for changed, message in (
        ({"pooling_strategy": "sum"}, "must pool by the maximum; got 'sum'"),
        ({"activation_function": "gelu"}, "must have an activation in relu, log1p_relu; got"),
    ):
        pooling.write_text(json.dumps(settings | changed))
        with pytest.raises(ValueError, match=message):
            read_sparse_encoder(folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    with pytest.raises(ValueError, match=r"`folder` must hold .*; got MLMTransformer"):
        read_sparse_encoder(folder)
    with pytest.raises(FileNotFoundError, match=r"config.json` must exist"):
        read_sparse_encoder(tmp_path / "nowhere")


def test_a_layer_norm_before_the_autoencoder_is_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    encoder = ContrastiveSparseEncoder(12, k=3, max_steps=2, device="cpu").fit(x)
    folder = write_sparse_encoder(encoder, tmp_path / "sae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"normalize": True}))
    with pytest.raises(ValueError, match="must hold a SparseAutoEncoder without normalization"):
        read_sparse_encoder(folder)
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dim": 13}))
    with pytest.raises(ValueError, match=r"= \(13, 6\); got \(12, 6\)"):
        read_sparse_encoder(folder)


def test_no_more_tokens_are_read_than_there_are_places(tmp_path: Path) -> None:
    files = {
        "sentence_bert_config": {},
        "tokenizer_config": {"model_max_length": 512},
        "config": {"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1},
    }

    def length(**changes: dict[str, Any]) -> int:
        for name, content in (files | changes).items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return _max_length(tmp_path)

    assert length() == 512
    assert length(tokenizer_config={"model_max_length": 10**30}) == 512
    assert length(sentence_bert_config={"max_seq_length": 128}) == 128
    assert length(config={"max_position_embeddings": 256, "model_type": "bert"}) == 256
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "sentence_bert_config.json").unlink()
    assert _max_length(tmp_path) == 256
