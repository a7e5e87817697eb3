"""A configuration that says what it should not is refused before anything is made or read."""

import resource
import shutil

import pytest
import torch

import sae
from sae.manifest import Manifest
from sparsecode import io


@pytest.fixture
def model():
    return sae.TopK(n_features=8, n_latents=16, k=2, seed=0)


@pytest.fixture
def changed(model, tmp_path):
    """A folder whose config.json says something else, with a checksum that fits."""

    def write(change):
        folder = sae.save(model, tmp_path / "m")
        found = io.read_json(folder / "config.json")
        change(found)
        io.write_json(folder / "config.json", found)
        return folder

    return write


WRONG = {
    "no weights": (lambda c: c.pop("weights"), r"an entry 'weights' of type dict; got 'None'"),
    "weights": (lambda c: c.update(weights="x"), r"an entry 'weights' of type dict; got 'x'"),
    "no config": (lambda c: c.pop("config"), r"an entry 'config' of type dict; got 'None'"),
    "config": (lambda c: c.update(config=[1]), r"an entry 'config' of type dict; got '\[1\]'"),
    "no name": (lambda c: c.pop("architecture"), r"an entry 'architecture' of type str"),
    "name": (lambda c: c.update(architecture=["a"]), r"an entry 'architecture' of type str"),
    "metadata": (lambda c: c.update(metadata=[1]), r"an entry 'metadata' of type dict"),
    "no dtype": (lambda c: c.pop("dtype"), r"an entry 'dtype' of type str; got 'None'"),
    "method": (lambda c: c.update(dtype="load"), r"a `dtype` of float32, .*; got 'load'"),
    "integers": (lambda c: c.update(dtype="int8"), r"a `dtype` of float32, .*; got 'int8'"),
    "digest": (lambda c: c["weights"].update(sha256="1"), r"the SHA-256 of the weights; got '1'"),
    "argument": (lambda c: c["config"].update(evil=1), r"must hold the settings of TopK; .*'evil'"),
    "k": (lambda c: c["config"].update(k="x"), r"must hold the settings of TopK; `k` must be an"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_entry_that_is_not_of_its_kind_is_refused(changed, case):
    change, sentence = WRONG[case]
    with pytest.raises(ValueError, match=sentence):
        sae.load(changed(change))


@pytest.mark.parametrize("where", ["../other/{}", "{folder}/other/{}", "..\\{}", "", "a.pt"])
def test_weights_of_other_folders_are_not_read(changed, tmp_path, where):
    def elsewhere(found):
        (tmp_path / "other").mkdir()
        name = found["weights"]["file"]
        shutil.copy(tmp_path / "m" / name, tmp_path / "other" / name)
        found["weights"]["file"] = where.format(name, folder=tmp_path)

    folder = changed(elsewhere)
    for read in (sae.load, sae.LazyAutoencoder):
        with pytest.raises(ValueError, match=r"must have weights in a safetensors file beside it"):
            read(folder)


def test_sizes_that_the_weights_do_not_have_take_no_memory(changed):
    for sizes in ({"n_latents": 32}, {"n_latents": 10**9, "n_features": 10**6}):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ValueError, match=r"of shape .*, as config\.json says; got \(16, 8\)\."):
            sae.load(changed(lambda found, sizes=sizes: found["config"].update(sizes)))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # KiB
    with pytest.raises(ValueError, match=r"must hold the settings of TopK; "):
        sae.load(changed(lambda found: found["config"].update(n_latents=10**30)))


def test_weights_of_another_architecture_are_refused(changed):
    folder = changed(lambda found: found.update(architecture="relu", config={
        "n_features": 8, "n_latents": 16}))  # fmt: skip
    with pytest.raises(ValueError, match=r"must hold scale of shape \(\), .*; got None\."):
        sae.load(folder)
    folder = changed(lambda found: found.update(architecture="gated", config={
        "n_features": 8, "n_latents": 16}))  # fmt: skip
    with pytest.raises(ValueError, match=r"must hold b_mag of shape \(16,\), .*; got None\."):
        sae.load(folder)


@pytest.mark.parametrize("name", sae.autoencoders.AUTOENCODERS)
def test_every_architecture_is_made_without_memory_first(name, tmp_path):
    kind = sae.autoencoders.AUTOENCODERS[name]
    sizes = {"n_features": 8} | ({"widths": [3, 5]} if name == "crosscoder" else {})
    if name not in ("bilinear", "gated", "jumprelu", "relu"):
        sizes["k"] = 2
    model = kind(n_latents=16, **sizes)
    found = Manifest.of(sae.save(model, tmp_path))
    state, again = model.state_dict(), found.made(model.state_dict()).state_dict()
    assert list(state) == list(again)
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_given_is_refused_where_everything_is_said(model, tmp_path):
    with pytest.raises(ValueError, match=r"`given` must be empty for what sae\.save wrote"):
        sae.load(sae.save(model, tmp_path), given={"threshold": 1.0})
