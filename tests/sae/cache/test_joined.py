"""Several hookpoints side by side: the same rows, however they are read."""

import numpy as np
import pytest
import torch

import sae
from sae.cache import join

A, B = "encoder.layer.0", "encoder.layer.1"


def parts(cache, split=None):
    return [sae.cache.open(cache.path, name, split) for name in (A, B)]


def by_row(cache, split=None):
    return torch.cat([part.rows(0, part.n_rows) for part in parts(cache, split)], 1)


@pytest.mark.parametrize("split", [None, "train", "heldout"])
def test_rows_are_those_of_the_parts(word_cache, split):
    joined = join(parts(word_cache, split))
    want = by_row(word_cache, split)
    assert (joined.n_rows, joined.n_features) == tuple(want.shape)
    assert joined.widths == [16, 16]
    assert joined.hookpoint == f"{A}+{B}"
    assert torch.equal(joined.rows(0, joined.n_rows), want)
    assert torch.equal(joined.rows(3, 7), want[3:7])
    assert torch.equal(joined.take(torch.tensor([5, 0, 5])), want[[5, 0, 5]])
    assert joined.statistics.mean_squared_norm == pytest.approx(
        float(want.double().square().sum(1).mean()), rel=1e-9
    )


@pytest.mark.parametrize("window_bytes", [2**29, 2000])
@pytest.mark.parametrize("split", [None, "train"])
def test_batches_are_shuffled_together_and_go_on_exactly(word_cache, split, window_bytes):
    joined, want = join(parts(word_cache, split)), by_row(word_cache, split)
    settings = {"seed": 3, "epochs": 1, "window_bytes": window_bytes}
    epoch = torch.cat([batch.clone() for batch in joined.batches(7, **settings)])
    assert not torch.equal(epoch, want)
    for rows in (epoch, want):
        rows[:] = rows[np.lexsort(rows.T.numpy())]
    assert torch.equal(epoch, want)
    stream = joined.batches(7, seed=3, window_bytes=window_bytes)
    first = [next(stream).clone() for _ in range(9)]
    stream.close()
    again = joined.batches(7, seed=3, start_row=28, window_bytes=window_bytes)
    assert all(torch.equal(next(again), batch) for batch in first[4:])
    again.close()


def test_a_name_with_plus_joins(word_cache):
    from_path = sae.cache.as_source(word_cache.path, hookpoint=f"{A}+{B}", split="train")
    from_cache = sae.cache.as_source(parts(word_cache, "train")[1], hookpoint=f"{A}+{B}")
    for source in (from_path, from_cache, join(parts(word_cache, "train"))):
        assert source.fingerprint == from_path.fingerprint
        assert torch.equal(source.rows(0, 5), by_row(word_cache, "train")[:5])
    reverse = sae.cache.as_source(word_cache.path, hookpoint=f"{B}+{A}", split="train")
    assert reverse.fingerprint != from_path.fingerprint


@pytest.fixture(scope="module")
def caches(bert_folder, tmp_path_factory):
    """The same texts at one hookpoint a cache, other texts, and another dtype."""
    texts = ["the king ' s cat sat on a mat .", "the kingdom , the cat , the mat ."] * 9
    folder = tmp_path_factory.mktemp("caches")
    write = lambda name, texts, hookpoint, **options: sae.cache.write(  # noqa: E731
        str(bert_folder), texts, [hookpoint], folder / name, device="cpu", **options
    )
    return {
        "a": write("a", texts, A),
        "b": write("b", texts, B, shard_rows=50),
        "shorter": write("shorter", texts[:-1], B),
        "swapped": write("swapped", [texts[1], texts[0], *texts[2:]], B),
        "wide": write("wide", texts, B, dtype="float32"),
    }


def test_caches_of_the_same_tokens_join(caches):
    joined = join([caches["a"], caches["b"]])
    want = torch.cat([caches[name].rows(0, joined.n_rows) for name in ("a", "b")], 1)
    assert torch.equal(joined.rows(0, joined.n_rows), want)
    stream = joined.batches(16, seed=1)
    batch = next(stream)
    stream.close()
    assert all(bool((row == want).all(1).any()) for row in batch)
    halves = [joined.with_split(side).n_rows for side in ("train", "heldout")]
    assert sum(halves) == joined.n_rows


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ("shorter", r"must hold the same tokens in the same order; .* have \d+ and \d+ rows"),
        ("swapped", r"must hold the same tokens in the same order; .* differ first in row \d+"),
        ("wide", "`caches` must have one dtype; got float16 of .* and float32 of "),
    ],
)
def test_caches_that_do_not_match_are_refused(caches, other, sentence):
    with pytest.raises(ValueError, match=sentence):
        join([caches["a"], caches[other]])


def test_what_is_no_cache_or_alone_or_split_otherwise_is_refused(caches):
    with pytest.raises(TypeError, match=r"`caches` must hold caches of sae.cache.open; got Tensor"):
        join([caches["a"], torch.zeros(3, 3)])
    with pytest.raises(ValueError, match="`caches` must hold at least two caches; got 1"):
        join([caches["a"]])
    with pytest.raises(ValueError, match="`caches` must be opened at the same split; got 'train'"):
        join([caches["a"].with_split("train"), caches["b"]])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["transcoder", "crosscoder"])
def test_training_on_joined_hookpoints_resumes_exactly(
    word_cache, tmp_path, kind, outcome, press_ctrl_c
):
    def fit(folder, *, at=None, resume=False):
        data = sae.cache.as_source(word_cache.path, hookpoint=f"{A}+{B}")
        if kind == "transcoder":
            model = sae.Transcoder(n_features=16, n_latents=32, k=4, seed=0)
        else:
            model = sae.Crosscoder(n_features=32, widths=[16, 16], n_latents=32, k=4, seed=0)
        config = sae.TrainConfig(
            batch_size=32, n_steps=20, out_dir=folder, progress=False, normalize="mean_square"
        )
        if at is not None:
            press_ctrl_c(model, at)
        return sae.Trainer(model, data, config).fit(resume)

    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", at=8)
    fit(tmp_path / "parts", resume=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    assert whole.evaluation["fvu"] < 1
