"""Data sets: the text arrives whole, and synthetic data is what its docstring says."""

import pytest
import torch

from sparsecode.datasets import load_shakespeare, make_sparse_data


@pytest.mark.parametrize(("n_latents", "k"), [(1, 1), (7, 7), (50, 3)])
def test_rows_are_sums_of_exactly_k_distinct_atoms(n_latents: int, k: int) -> None:
    x_ND, dictionary, codes = make_sparse_data(200, 5, n_latents, k, seed=3)
    assert (codes.to_dense() != 0).sum(1).tolist() == [k] * 200
    assert codes.values.min() >= 0.5
    assert codes.values.max() <= 1.5
    torch.testing.assert_close(dictionary.norm(dim=1), torch.ones(n_latents))
    torch.testing.assert_close(x_ND, codes.to_dense() @ dictionary)


def test_every_latent_and_every_pair_is_drawn_equally_often() -> None:
    _, _, codes = make_sparse_data(60_000, 2, 6, 3, seed=1)
    fired = (codes.to_dense() != 0).double()
    together = fired.T @ fired / len(fired)
    expected = torch.full((6, 6), 0.2, dtype=torch.float64).fill_diagonal_(0.5)  # 3/6 * 2/5 off it
    # Five standard deviations of a share of 0.5 among 60,000 rows.
    torch.testing.assert_close(together, expected, atol=5 * 0.5 / 60_000**0.5, rtol=0)


def test_noise_has_the_stated_deviation_and_signs_are_balanced() -> None:
    x_ND, dictionary, codes = make_sparse_data(4_000, 16, 32, 4, noise=0.25, signed=True)
    residual = x_ND - codes.to_dense() @ dictionary
    assert residual.std().item() == pytest.approx(0.25, rel=0.02)
    assert (codes.values < 0).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert codes.values.abs().min() >= 0.5


def test_the_seed_decides_the_data_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (make_sparse_data(20, 4, 8, 2, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_of_the_same_seed_does_not_start_at_the_solution() -> None:
    _, dictionary, _ = make_sparse_data(10, 32, 96, 3, seed=0)
    start = torch.randn(96, 32, generator=torch.Generator().manual_seed(0))
    cosine = torch.nn.functional.cosine_similarity(dictionary, start)
    assert cosine.abs().mean() < 0.3


def test_too_many_active_latents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`k` must be an int in \[1, n_latents\]; got 9"):
        make_sparse_data(10, 4, 8, 9)


def test_noise_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="`noise` must be a finite number"):
        make_sparse_data(10, 4, 8, 2, noise=-0.1)


def test_the_text_is_whole_and_no_passage_is_too_long() -> None:
    passages = load_shakespeare()
    assert max(map(len, passages)) <= 1000
    assert sum(map(len, passages)) / len(passages) > 700
    words = " ".join(passages).split()
    assert len(words) == 202_651
    assert words[:3] == ["First", "Citizen:", "Before"]


@pytest.mark.parametrize("limit", [1, 80, 400, 10**9])
def test_passage_length_never_loses_or_reorders_words(limit: int) -> None:
    whole = " ".join(load_shakespeare()).split()
    assert " ".join(load_shakespeare(max_characters=limit)).split() == whole


def test_a_passage_length_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="`max_characters` must be an int"):
        load_shakespeare(max_characters=0)
