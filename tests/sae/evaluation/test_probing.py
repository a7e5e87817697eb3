"""Probes find the latents that labels were made from."""

import numpy as np
import pytest

from sae.evaluation import first_letters, probe


def test_one_latent_is_enough_where_it_is_the_label(planted) -> None:
    model, x, y = planted
    found = probe(model, x, y, ks=(1, 4))
    assert found["latents"] == {"0": 3, "1": 11, "2": 20}
    assert found["accuracy_at_k"]["1"] == pytest.approx(1.0)
    assert found["accuracy_codes"] == pytest.approx(1.0)
    assert found["accuracy_activations"] == pytest.approx(1.0)
    assert found["accuracy_majority"] == pytest.approx(1 / 3, abs=0.02)
    assert (found["n_classes"], found["n_rows"]) == (3, 600)


def test_labels_of_chance_are_not_predicted(planted) -> None:
    model, x, _ = planted
    y = np.random.default_rng(0).integers(0, 2, 600)
    found = probe(model, x, y, ks=(1,))
    assert 0.35 < found["accuracy_at_k"]["1"] < 0.65


def test_rows_without_a_label_and_rare_classes_are_left_out(planted) -> None:
    model, x, y = planted
    names = np.array(["a", "b", ""])[y]
    names[:2] = "rare"
    found = probe(model, x, names, ks=(1,), max_rows=300)
    assert found["n_classes"] == 2
    assert found["n_rows"] <= 300
    assert set(found["latents"]) == {"a", "b"}


def test_labels_of_a_data_frame_and_of_two_kinds(planted) -> None:
    model, x, y = planted
    names = np.array(["a", "b", "c"], dtype=object)[y]
    assert set(probe(model, x, names, ks=(1,))["latents"]) == {"a", "b", "c"}
    assert probe(model, x, y == 0, ks=(1,))["n_classes"] == 2
    names[3] = None
    with pytest.raises(TypeError, match="`labels` must be numbers or strings, one kind of them"):
        probe(model, x, names)


def test_wrong_labels_are_refused(planted) -> None:
    model, x, y = planted
    with pytest.raises(ValueError, match=r"`labels` must hold one label for each of 600 rows; got"):
        probe(model, x, y[:5])
    with pytest.raises(ValueError, match="`labels` must hold at least two classes with 8 rows"):
        probe(model, x, np.zeros(600, dtype=int))


def test_first_letters_are_those_of_words(word_cache) -> None:
    letters = first_letters(word_cache)
    pieces = [word_cache.vocabulary[i] for i in word_cache.token_ids(0, word_cache.n_rows)]
    assert len(letters) == word_cache.n_rows
    for piece, letter in zip(pieces, letters, strict=True):
        assert letter == (piece[0] if piece[0].isalpha() else "")
    assert "##" in {piece[:2] for piece in pieces}
