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
from sparsecode import io
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
    free = InferenceFreeEncoder(
        mlm, tokenizer, idf={"cat": 3.0, "dog": -2.0}, n_logs=2, max_query_length=2
    )
    splade = SpladeEncoder(mlm, tokenizer, max_length=5)
    for name, encoder in (("free", free), ("splade", splade)):
        loaded = load_encoder(save_encoder(encoder, tmp_path / name))
        assert type(loaded) is type(encoder)
        assert loaded.documents.max_length == encoder.documents.max_length
        if name == "free":
            assert loaded.encode_queries(["dog cat cat"]).nnz == 1
            assert loaded.encode_queries(["dog dog cat"]).nnz == 0
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


def test_a_changed_file_of_a_language_model_is_refused(
    mlm: Any, tokenizer: Any, tmp_path: Path
) -> None:
    folder = save_encoder(SpladeEncoder(mlm, tokenizer), tmp_path / "splade")
    (model,) = folder.glob("model-*")
    for name in ("model.safetensors", "tokenizer.json"):
        raw = (model / name).read_bytes()
        (model / name).write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
        with pytest.raises(CorruptFileError, match=rf"exactly what was written; {name} differ"):
            load_encoder(folder)
        (model / name).write_bytes(raw)
    (model / "added_tokens.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"added_tokens\.json differ"):
        load_encoder(folder)


def test_another_language_model_takes_the_place_in_one_step(
    mlm: Any, tokenizer: Any, tmp_path: Path
) -> None:
    first = InferenceFreeEncoder(mlm, tokenizer, idf={"cat": 3.0})
    folder = save_encoder(first, tmp_path / "free")
    before = first.encode_documents(["the cat sits"])
    (old,) = folder.glob("model-*")
    (folder / "model-new").mkdir()  # of a call that was killed
    assert abs(load_encoder(folder).encode_documents(["the cat sits"]) - before).max() < 1e-6
    with torch.no_grad():
        mlm.bert.embeddings.word_embeddings.weight.mul_(2.0)
    save_encoder(InferenceFreeEncoder(mlm, tokenizer), folder)
    assert not old.exists()
    assert len(list(folder.glob("model-*"))) == len(list(folder.glob("weights-*"))) == 1
    assert load_encoder(folder).encode_queries(["cat"]).data.tolist() == [1.0]


def test_files_outside_the_folder_are_not_read(mlm: Any, tokenizer: Any, tmp_path: Path) -> None:
    encoder = FlopsEncoder(12, **FAST).fit(X)
    folder = save_encoder(encoder, tmp_path / "flops")
    config = io.read_json(folder / "config.json")
    outside = tmp_path / "weights-0123456789abcdef.safetensors"
    outside.write_bytes((folder / config["weights"]["file"]).read_bytes())
    for name in (f"../{outside.name}", str(outside)):
        changed = config | {"weights": {**config["weights"], "file": name}}
        io.write_json(folder / "config.json", changed)
        with pytest.raises(CorruptFileError, match="it names no weights of its own folder"):
            load_encoder(folder)
    folder = save_encoder(SpladeEncoder(mlm, tokenizer), tmp_path / "splade")
    config = io.read_json(folder / "config.json")
    config["config"]["model"]["folder"] = "../splade"
    io.write_json(folder / "config.json", config)
    with pytest.raises(CorruptFileError, match="must name a model of its own folder"):
        load_encoder(folder)


def test_names_of_features_and_steps_are_kept(tmp_path: Path) -> None:
    frame = pytest.importorskip("pandas", reason="pandas is not installed").DataFrame(
        X, columns=list("abcdef")
    )
    for i, kind in enumerate((ContrastiveSparseEncoder, FlopsEncoder)):
        encoder = kind(12, **FAST).fit(frame)
        loaded = load_encoder(save_encoder(encoder, tmp_path / str(i)))
        assert loaded.feature_names_in_.tolist() == list("abcdef")
        assert loaded.n_iter_ == encoder.n_iter_ == 2
        assert (loaded.transform(frame) != encoder.transform(frame)).nnz == 0
        with pytest.raises(ValueError, match="The feature names should match"):
            loaded.transform(frame.iloc[:, ::-1])
    assert loaded.weight_ == encoder.weight_


def test_numbers_of_numpy_are_written(tmp_path: Path) -> None:
    encoder = FlopsEncoder(12, max_steps=np.int64(2), random_state=np.int64(3), device="cpu")
    loaded = load_encoder(save_encoder(encoder.fit(X), tmp_path / "flops"))
    assert loaded.get_params() == encoder.get_params()
