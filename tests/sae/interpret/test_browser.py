import json
from typing import Any

import pytest
import torch
from torch import Tensor

import sae
from sae.cache import Cache, as_source
from sae.interpret import EncodedRows, browser_data, top_examples
from sae.interpret.browser import pack, unpack

N_LATENTS = 20


def encoded_words(cache: Cache) -> EncodedRows:
    return EncodedRows(sae.TopK(n_features=16, n_latents=N_LATENTS, k=4, seed=0), cache)


def table(data: dict[str, Any], name: str, width: int) -> Tensor:
    return torch.from_numpy(unpack(data[name]).copy()).double().reshape(-1, width)


@pytest.mark.parametrize("largest", [0, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**50])
def test_integers_take_the_narrowest_type(largest: int) -> None:
    packed = pack(torch.tensor([0, largest]))
    sizes = {"uint8": 2**8, "uint16": 2**16, "uint32": 2**32, "float64": 2**53}
    fitting = [kind for kind, limit in sizes.items() if largest < limit]
    assert packed["type"] == fitting[0]
    assert unpack(packed).tolist() == [0, largest]


def test_numbers_and_empty_arrays_survive_packing() -> None:
    assert unpack(pack(torch.tensor([0.5, -3.0]))).tolist() == [0.5, -3.0]
    assert unpack(pack(torch.zeros(0, dtype=torch.long))).shape == (0,)


def test_data_are_json_and_have_one_entry_for_each_latent(word_cache: Cache) -> None:
    data = browser_data(encoded_words(word_cache), word_cache.vocabulary, n_top=5)
    json.dumps(data, allow_nan=False)
    found = top_examples(encoded_words(word_cache))
    assert unpack(data["count"]).tolist() == found.counts.tolist()
    assert unpack(data["max"]).tolist() == found.maximum.tolist()
    assert data["examples_per_latent"] == 5 + 2 * 3 == sum(g["size"] for g in data["groups"])
    for name in ("rows", "values", "starts", "lengths", "centers", "n_fired"):
        assert len(unpack(data[name])) == N_LATENTS * 11
    assert len(unpack(data["neighbors"])) == N_LATENTS * data["n_neighbors"]
    heights = table(data["histogram"], "heights", data["histogram"]["n_bins"])
    assert torch.equal(heights.amax(1) > 0, found.counts > 0)


def test_windows_decode_to_the_text_and_its_values(word_cache: Cache) -> None:
    encoded = encoded_words(word_cache)
    data = browser_data(encoded, word_cache.vocabulary, n_top=5)
    tokens, starts, lengths = (unpack(data[name]) for name in ("tokens", "starts", "lengths"))
    rows, values, centers = (unpack(data[name]) for name in ("rows", "values", "centers"))
    ends = unpack(data["n_fired"]).astype(int).cumsum()
    shares, places = unpack(data["fired_share"]), unpack(data["fired_at"])
    ids = word_cache.token_ids(0, word_cache.n_rows).tolist()
    vocabulary = word_cache.vocabulary
    assert vocabulary is not None
    for example, row in enumerate(rows.astype(int) - 1):
        if row < 0:
            assert lengths[example] == 0
            continue
        window = tokens[starts[example] : starts[example] + lengths[example]]
        first = row - centers[example]
        for offset, token in enumerate(window):
            piece = vocabulary[ids[first + offset]]
            assert data["vocabulary"][token].strip() == piece.removeprefix("##")
        fired = slice(ends[example - 1] if example else 0, ends[example])
        share = dict(zip(places[fired].tolist(), shares[fired].tolist(), strict=True))
        largest = unpack(data["max"])[example // 11]
        assert share[centers[example]] / 255 == pytest.approx(
            values[example] / largest, abs=1 / 255
        )


def test_one_example_for_each_passage_and_no_row_twice(word_cache: Cache) -> None:
    data = browser_data(encoded_words(word_cache), word_cache.vocabulary, n_top=4, before=3)
    for rows, values in zip(table(data, "rows", 10), table(data, "values", 10), strict=True):
        shown = rows[rows > 0]
        assert len(set(shown.tolist())) == len(shown)
        top = values[:4]
        assert torch.equal(top, top.sort(descending=True).values)
    best = top_examples(encoded_words(word_cache), n_top=1)
    assert torch.equal(table(data, "rows", 10)[:, 0].long() - 1, best.rows[:, 0])


def test_neighboring_rows_give_one_example_while_there_are_others() -> None:
    model = sae.TopK(n_features=4, n_latents=4, k=1, seed=0)
    with torch.no_grad():
        model.W_enc.copy_(torch.eye(4))
    x = torch.full((40, 4), -1.0)
    x[10:14, 0] = torch.tensor([9.0, 8.0, 7.0, 6.0])  # one passage
    x[30, 0] = 1.0
    data = browser_data(
        EncodedRows(model, as_source(x)), None, n_top=2, quantiles=(), before=5, n_neighbors=1
    )
    assert (table(data, "rows", 2)[0] - 1).tolist() == [10, 30]


def test_data_without_tokens_have_no_text() -> None:
    model = sae.TopK(n_features=4, n_latents=6, k=2, seed=0)
    data = browser_data(EncodedRows(model, as_source(torch.randn(30, 4))), None)
    assert "vocabulary" not in data
    assert "tokens" not in data
    assert data["n_rows"] == 30


def test_a_cache_without_a_tokenizer_shows_numbers(word_cache: Cache) -> None:
    data = browser_data(encoded_words(word_cache), [])
    assert set(data["vocabulary"]) == {
        f" <{i}>" for i in word_cache.token_ids(0, word_cache.n_rows).unique().tolist()
    }


def test_an_autoencoder_that_never_fires_gives_a_page_too() -> None:
    model = sae.TopK(n_features=4, n_latents=6, k=2, seed=0)
    with torch.no_grad():
        model.b_enc.fill_(-100.0)
    data = browser_data(EncodedRows(model, as_source(torch.randn(30, 4))), None)
    assert unpack(data["count"]).tolist() == [0] * 6
    assert not unpack(data["rows"]).any()
