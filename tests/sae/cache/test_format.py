"""The bytes on disk are what the format's description says."""

import hashlib
import json
import struct
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sae.cache
from sae.cache import Cache
from sae.cache.format import (
    activation_header,
    block_digest,
    held_out_score,
    hookpoint_folders,
    read_manifest,
    rows_per_block,
    stored_dtype,
)
from sparsecode.io import CorruptFileError, read_json, write_json


def splitmix64(state: int) -> int:
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def digest_as_described(block: bytes) -> bytes:
    """The digest of a block, in plain Python from the words of the description."""
    filled = block + bytes(-len(block) % 8192)
    words = struct.unpack(f"<{len(filled) // 8}Q", filled)
    total = sum(u * (splitmix64(i) | 1) for i, u in enumerate(words)) % 2**64
    line = [0] * 1024
    for i, u in enumerate(words):
        line[i % 1024] ^= u
    return hashlib.sha256(struct.pack("<1026Q", len(block), total, *line)).digest()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_any_reader_of_safetensors_and_json_can_read_a_cache(
    write: Callable[..., Cache], dtype: str
) -> None:
    cache = write(dtype=dtype)
    manifest = json.loads((cache.path / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("sparsecode.activations", 1)
    assert manifest["dtype"] == dtype
    assert len(manifest["shards"]) > 2
    for name, hookpoint in manifest["hookpoints"].items():
        rows, tokens, positions, documents = [], [], [], []
        for number, shard in enumerate(manifest["shards"]):
            file = f"{number:06d}.safetensors"
            path = cache.path / hookpoint["folder"] / file
            record = shard["activations"][name]
            assert record["bytes"] == path.stat().st_size
            assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            values = load_file(path)["activations"]
            assert values.dtype == getattr(torch, dtype)
            assert values.shape == (shard["rows"], hookpoint["n_features"])
            index = load_file(cache.path / "index" / file)
            blocks = values.view(torch.uint8).numpy()
            for i, digest in enumerate(index[f"digests/{name}"]):
                block = blocks[i * manifest["block_rows"] : (i + 1) * manifest["block_rows"]]
                assert digest_as_described(block.tobytes()) == bytes(digest.tolist())
            read = load_file(cache.path / "tokens" / file)
            rows.append(values)
            tokens.append(read["token_ids"])
            positions.append(read["positions"])
            documents.append(index["documents"].repeat_interleave(index["starts"].diff()))
        opened = sae.cache.open(cache.path, name)
        n = manifest["n_rows"]
        assert torch.equal(opened.rows(0, n, dtype=None), torch.cat(rows))
        assert torch.equal(opened.token_ids(0, n), torch.cat(tokens).long())
        assert torch.equal(opened.positions(0, n), torch.cat(positions).long())
        assert torch.equal(opened.document_ids(0, n), torch.cat(documents))


@pytest.mark.parametrize("shape", [(1, 1), (7, 384), (170_000, 12_288)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_headers_align_the_data(shape: tuple[int, int], dtype: str) -> None:
    header = activation_header(*shape, dtype)
    assert len(header) % 64 == 0
    assert int.from_bytes(header[:8], "little") == len(header) - 8
    assert json.loads(header[8:])["activations"]["shape"] == list(shape)


@pytest.mark.parametrize(
    ("n_features", "dtype", "rows"),
    [(384, "float16", 1024), (768, "float32", 256), (4096, "bfloat16", 128), (10**6, "float32", 1)],
)
def test_blocks_are_about_a_mebibyte(n_features: int, dtype: str, rows: int) -> None:
    assert rows_per_block(n_features, dtype) == rows


def test_folders_are_safe_and_distinct() -> None:
    names = ["encoder.layer.3", "a/../b", "a_.._b", "x y"]
    folders = hookpoint_folders(names)
    assert folders["encoder.layer.3"] == "activations/encoder.layer.3"
    assert len(set(folders.values())) == 4
    assert all(folder.count("/") == 1 for folder in folders.values())


def test_held_out_scores_are_splitmix64() -> None:
    # The first outputs of the published generator for the states 0 and 1.
    expected = [0xE220A8397B1DCDAF / 2**64, 0x910A2DEC89025CC1 / 2**64]
    np.testing.assert_allclose(held_out_score(np.array([0, 1])), expected, rtol=1e-15)
    scores = held_out_score(np.arange(100_000))
    np.testing.assert_allclose(np.histogram(scores, 10, (0, 1))[0], 10_000, rtol=0.04)


@pytest.mark.parametrize("dtype", ["float64", "int8", torch.float64, "half"])
def test_other_dtypes_are_refused(dtype: str | torch.dtype) -> None:
    with pytest.raises(ValueError, match="`dtype` must be one of 'float32', 'float16', 'bfloat16'"):
        stored_dtype(dtype)


@pytest.mark.parametrize(
    ("key", "value", "fact"),
    [
        ("version", 2, "must be of version 1; got 2"),
        ("format", "other", "must be of the format 'sparsecode.activations'"),
        ("shards", [{}], "must have all keys"),
        ("unknown", 1, "must have all keys"),
    ],
)
def test_other_manifests_are_refused(
    write: Callable[..., Cache], key: str, value: object, fact: str
) -> None:
    path = write().path / "manifest.json"
    write_json(path, {**read_json(path), key: value})
    with pytest.raises(CorruptFileError, match=f"manifest.json` {fact}"):
        read_manifest(path.parent)


def test_digests_of_blocks_are_as_described() -> None:
    data = np.random.default_rng(0).integers(0, 256, 3 * 8192 + 40, dtype=np.uint8)
    for n_bytes in (0, 2, 8, 8190, 8192, 8194, 2 * 8192, len(data)):
        assert block_digest(data[:n_bytes]) == digest_as_described(data[:n_bytes].tobytes())


def test_digests_of_blocks_tell_what_happens_to_disks() -> None:
    data = np.random.default_rng(1).integers(0, 256, 2**17, dtype=np.uint8)
    digests = {block_digest(data)}
    for bit in np.random.default_rng(2).integers(0, 8 * len(data), 200):  # one bit
        flipped = data.copy()
        flipped[bit // 8] ^= 1 << (bit % 8)
        digests.add(block_digest(flipped))
    for i, j in ((0, 1), (0, 2), (3, 19)):  # two pages, lines or sectors in each other's place
        for size in (512, 4096, 8192):
            swapped = data.copy()
            a, b = slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size)
            if b.stop <= len(data):
                swapped[a], swapped[b] = data[b], data[a]
                digests.add(block_digest(swapped))
    zeroed = data.copy()
    zeroed[4096:8192] = 0
    digests |= {block_digest(zeroed), block_digest(data[:-1]), block_digest(data[1:])}
    digests.add(block_digest(np.roll(data, 8192)))
    assert len(digests) == 1 + 200 + 8 + 4
