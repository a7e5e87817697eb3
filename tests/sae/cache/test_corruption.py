"""Damage of any file of a cache is refused with a sentence that names the file."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import sae.cache
from sae.cache import Cache, CorruptFileError

N_DAMAGES = 200


def read_everything(folder: Path) -> None:
    """Use every byte of a cache in the ways a user does."""
    for hookpoint in ("encoder.layer.0", "encoder.layer.1"):
        cache = sae.cache.open(folder, hookpoint)
        cache.rows(0, cache.n_rows)
        cache.token_ids(0, cache.n_rows)
        cache.document_ids(0, cache.n_rows)
        assert cache.vocabulary


def verify_everything(folder: Path) -> None:
    for hookpoint in ("encoder.layer.0", "encoder.layer.1"):
        sae.cache.open(folder, hookpoint).verify()


def damage(path: Path, rng: random.Random) -> str:
    """Flip a bit, cut or lengthen the file, or overwrite a stretch of it; return what was done."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    kind = rng.choice(["flip", "flip", "flip", "cut", "longer", "zeros"])
    if kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        data = data[:place]
    elif kind == "longer":
        data += bytes(rng.randrange(1, 100))
    else:
        end = min(len(data), place + rng.randrange(1, 1000))
        if not any(data[place:end]):
            data[place] = 1  # zeros over zeros would be no damage
        else:
            data[place:end] = bytes(end - place)
    path.write_bytes(data)
    return f"{kind} at {place} of {path.name}"


@pytest.mark.parametrize("use", [read_everything, verify_everything])
def test_no_damage_is_accepted(write: Callable[..., Cache], use: Callable[[Path], None]) -> None:
    cache = write()
    rng = random.Random(use.__name__)
    paths = sorted(path for path in cache.path.rglob("*") if path.is_file())
    folders = {path.parent.name for path in paths}
    assert folders == {"acts", "tokens", "index", "encoder.layer.0", "encoder.layer.1"}
    for number in range(N_DAMAGES // 2):
        path = paths[number % len(paths)]
        original = path.read_bytes()
        what = damage(path, rng)
        with pytest.raises(CorruptFileError) as caught:
            use(cache.path)
        message = str(caught.value)
        assert f"{path.name}`" in message, what
        assert message.endswith("."), what
        assert "\n" not in message, what
        path.write_bytes(original)
    use(cache.path)


def test_batches_refuse_a_flipped_row(write: Callable[..., Cache]) -> None:
    cache = write()
    path = cache.path / "activations/encoder.layer.0/000002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        CorruptFileError, match=r"000002.safetensors.*the checksum of its rows 0 to"
    ):
        list(cache.batches(16, epochs=1))
    unchecked = sae.cache.open(cache.path, "encoder.layer.0", verify=False)
    assert sum(map(len, unchecked.batches(16, epochs=1))) == cache.n_rows


def test_a_missing_file_is_refused_by_name(write: Callable[..., Cache]) -> None:
    cache = write()
    for name in ("activations/encoder.layer.0/000001.safetensors", "index/000000.safetensors",
                 "tokens/000001.safetensors", "vocabulary.json"):  # fmt: skip
        path = cache.path / name
        path.rename(path.with_suffix(".away"))
        with pytest.raises(CorruptFileError, match=f"{name}` must .*the file is missing"):
            read_everything(cache.path)
        with pytest.raises(CorruptFileError, match=f"{name}` must .*the file is missing"):
            cache.verify()
        path.with_suffix(".away").rename(path)


def test_shards_of_another_cache_are_refused(write: Callable[..., Cache], tmp_path: Path) -> None:
    cache, other = write(), write(texts=[[5, 6, 7]] * 60, out=tmp_path / "other")
    name = "activations/encoder.layer.0/000000.safetensors"
    shutil.copy(other.path / name, cache.path / name)
    with pytest.raises(CorruptFileError, match=name):
        read_everything(cache.path)


def test_only_the_damaged_hookpoint_is_lost(write: Callable[..., Cache]) -> None:
    cache = write()
    (cache.path / "activations/encoder.layer.1/000000.safetensors").unlink()
    cache.verify()
    assert len(cache.rows(0, cache.n_rows)) == cache.n_rows
    with pytest.raises(CorruptFileError):
        cache.at("encoder.layer.1").rows(0, 1)


def test_verify_reports_its_progress(write: Callable[..., Cache]) -> None:
    cache = write()
    seen: list[int] = []
    cache.verify(seen.append)
    sizes = [p.stat().st_size for p in cache.path.rglob("*.*") if p.is_file()]
    other = sum(p.stat().st_size for p in (cache.path / "activations/encoder.layer.1").iterdir())
    assert sum(seen) == sum(sizes) - other - (cache.path / "manifest.json").stat().st_size
