from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from retrieval import (
    ContrastiveSparseEncoder,
    FlopsEncoder,
    InferenceFreeEncoder,
    LatentEncoder,
    SpladeEncoder,
    load_encoder,
    save_encoder,
)
from sparsecode.io import CorruptFileError

X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
FAST: dict[str, Any] = {"max_steps": 2, "batch_size": 16, "device": "cpu"}


def test_encoders_of_embeddings_come_back_equal(tmp_path: Path) -> None:
    for i, encoder in enumerate(
        [
            ContrastiveSparseEncoder(12, k=3, random_state=np.random.RandomState(0), **FAST),
            FlopsEncoder(12, activation="soft_threshold", **FAST),
        ]
    ):
        folder = save_encoder(encoder.fit(X), tmp_path / str(i))
        loaded = load_encoder(folder)
        assert type(loaded) is type(encoder)
        assert (loaded.transform(X) != encoder.transform(X)).nnz == 0
        assert (loaded.transform(X, k=2) != encoder.transform(X, k=2)).nnz == 0
        again = load_encoder(save_encoder(loaded, folder))
        assert (again.transform(X) != encoder.transform(X)).nnz == 0
        assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]


def test_codes_are_given_their_length_back_after_loading(tmp_path: Path) -> None:
    encoder = ContrastiveSparseEncoder(12, k=3, **FAST).fit(X)
    loaded = load_encoder(save_encoder(encoder, tmp_path))
    codes = encoder.transform(X)
    assert np.array_equal(loaded.inverse_transform(codes), encoder.inverse_transform(codes))
    with pytest.raises(ValueError, match="`partial_fit` needs the state of the training"):
        loaded.partial_fit(X)
    assert loaded.fit(X).n_iter_ == 2


def test_encoders_of_texts_come_back_equal(mlm: Any, tokenizer: Any, tmp_path: Path) -> None:
    texts = ["the cat sits", "a dog runs near the river"]
    free = InferenceFreeEncoder(mlm, tokenizer, idf={"cat": 3.0, "dog": -2.0}, n_logs=2)
    splade = SpladeEncoder(mlm, tokenizer, max_length=5)
    for name, encoder in (("free", free), ("splade", splade)):
        loaded = load_encoder(save_encoder(encoder, tmp_path / name))
        assert type(loaded) is type(encoder)
        assert loaded.documents.max_length == encoder.documents.max_length
        for method in ("encode_documents", "encode_queries"):
            difference = getattr(loaded, method)(texts) - getattr(encoder, method)(texts)
            assert abs(difference).max() < 1e-6
        assert not list((tmp_path / name).rglob("*.bin"))


def test_damage_and_strangers_are_refused(tmp_path: Path) -> None:
    encoder = FlopsEncoder(12, **FAST).fit(X)
    folder = save_encoder(encoder, tmp_path / "flops")
    (weights,) = folder.glob("*.safetensors")
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(CorruptFileError, match="SHA-256 differs"):
        load_encoder(folder)
    with pytest.raises(FileNotFoundError, match="must hold an encoder that save_encoder wrote"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="it holds another config"):
        save_encoder(encoder, tmp_path)
    with pytest.raises(TypeError, match=r"`encoder` must be one of .*; got LatentEncoder"):
        save_encoder(LatentEncoder(encoder), tmp_path / "latent")
    own = FlopsEncoder(12, encoder=nn.Linear(6, 4), **FAST).fit(X, np.arange(40) % 2)
    with pytest.raises(TypeError, match="this one holds a module of your own"):
        save_encoder(own, tmp_path / "own")
    assert torch.is_tensor(own.module_.shift)
