import pytest
import torch
from torch import Tensor

import sae
from sae.cache import as_source
from sae.interpret import EncodedRows, LatentExamples, top_examples

WIDTH = 12


def passing(k: int = 3) -> sae.TopK:
    """An autoencoder whose latents are the features, so that codes are the k largest entries."""
    model = sae.TopK(n_features=WIDTH, n_latents=WIDTH, k=k, seed=0)
    with torch.no_grad():
        model.W_enc.copy_(torch.eye(WIDTH))
        model.b_enc.zero_()
    return model


def tied_rows(n: int = 400) -> Tensor:
    """Return rows with few different values, latent 5 never among them and latent 7 rarely."""
    x = torch.randint(-3, 5, (n, WIDTH), generator=torch.Generator().manual_seed(0)) / 4
    x[:, 5] = -1
    x[7:, 7] = -1
    return x


def found_in(x: Tensor, *, block_rows: int = 4096, k: int = 3, **options: int) -> LatentExamples:
    return top_examples(EncodedRows(passing(k), as_source(x), block_rows=block_rows), **options)


def dense_codes(x: Tensor, k: int = 3) -> Tensor:
    return passing(k).encode(x).to_dense()


@pytest.mark.parametrize("n_top", [1, 5, 500])
def test_equals_sorting_the_dense_codes(n_top: int) -> None:
    x = tied_rows()
    found, dense = found_in(x, n_top=n_top), dense_codes(x)
    for latent in range(WIDTH):
        values = dense[:, latent].tolist()
        expected = sorted((-value, row) for row, value in enumerate(values) if value > 0)[:n_top]
        filled = len(expected)
        assert found.rows[latent, :filled].tolist() == [row for _, row in expected]
        assert found.values[latent, :filled].tolist() == [-value for value, _ in expected]
        assert (found.rows[latent, filled:] == -1).all()
        assert (found.values[latent, filled:] == 0).all()
    assert found.n_rows == 400


def test_counts_means_and_density() -> None:
    x = tied_rows()
    found, dense = found_in(x), dense_codes(x).double()
    fired = dense > 0
    assert torch.equal(found.counts, fired.sum(0))
    torch.testing.assert_close(found.means, dense.sum(0) / fired.sum(0).clamp(min=1))
    torch.testing.assert_close(found.density, fired.double().mean(0))
    assert torch.equal(found.maximum, dense.amax(0).float())
    assert found.counts[5] == found.maximum[5] == found.means[5] == 0


@pytest.mark.parametrize("block_rows", [1, 7, 64])
def test_does_not_depend_on_the_blocks(block_rows: int) -> None:
    # Values are sums of few powers of two: every product and sum is exact.
    x = tied_rows()
    whole = found_in(x, n_top=6, n_sample=9)
    cut = found_in(x, n_top=6, n_sample=9, block_rows=block_rows)
    for name, value in vars(whole).items():
        other = getattr(cut, name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


def test_sample_holds_different_rows_in_which_the_latent_fired() -> None:
    x = tied_rows()
    found, dense = found_in(x, n_sample=20), dense_codes(x)
    for latent in range(WIDTH):
        rows = found.sample_rows[latent]
        rows = rows[rows >= 0]
        fired = int((dense[:, latent] > 0).sum())
        assert len(set(rows.tolist())) == len(rows) == min(20, fired)
        values = dense[rows, latent]
        assert torch.equal(found.sample_values[latent, : len(rows)], values)
        order = sorted(zip((-values).tolist(), rows.tolist(), strict=True))
        assert [row for _, row in order] == rows.tolist()


def test_sample_is_even_over_the_rows_and_differs_between_latents() -> None:
    n = 20_000
    found = found_in(torch.ones(n, WIDTH), k=2, n_sample=1000)  # latents 0 and 1 win every tie
    for latent in (0, 1):
        rows = found.sample_rows[latent].sort().values.double() / n
        steps = (torch.arange(1000) + 0.5) / 1000
        assert (rows - steps).abs().max() < 0.06  # Kolmogorov-Smirnov, level 0.001
    common = set(found.sample_rows[0].tolist()) & set(found.sample_rows[1].tolist())
    assert len(common) < 100  # 50 are expected


def test_histogram_counts_quarter_octaves() -> None:
    x = torch.full((6, WIDTH), -1.0)
    x[:, 0] = torch.tensor([1.0, 0.99, 2.0, 2**0.25 * 1.001, 1e-9, 1e9])
    histogram = found_in(x, k=1).histogram
    assert histogram[0].nonzero().flatten().tolist() == [0, 63, 64, 65, 68, 127]
    assert histogram.sum() == 6


def test_values_below_zero_are_no_examples() -> None:
    model = sae.KSparse(n_features=4, n_latents=4, k=4, seed=0)
    with torch.no_grad():
        model.W_enc.copy_(torch.eye(4))
    found = top_examples(EncodedRows(model, as_source(torch.tensor([[1.0, -1.0, 0.0, 2.0]]))))
    assert found.counts.tolist() == [1, 0, 0, 1]


def test_examples_at_a_quantile() -> None:
    x = torch.full((101, WIDTH), -1.0)
    x[:, 2] = torch.arange(101) + 1.0
    x[:3, 3] = torch.tensor([1.0, 2.0, 3.0]) + 200
    found = found_in(x, n_sample=120)
    values, rows = found.at_quantile(0.5)
    assert values[2].item() == 51
    assert rows[2].item() == 50
    assert found.at_quantile(1.0)[0][2].item() == 101
    assert found.at_quantile(0.0)[0][2].item() == 1
    assert found.at_quantile(0.25, n=3)[0][2].tolist() == [27, 26, 25]
    assert found.at_quantile(0.0, n=5)[0][3].tolist() == [203, 202, 201, 0, 0]
    assert found.at_quantile(0.0, n=5)[1][3].tolist() == [2, 1, 0, -1, -1]
    assert found.at_quantile(0.5, n=2)[1][4].tolist() == [-1, -1]


def test_bad_numbers_are_refused() -> None:
    x = tied_rows(5)
    with pytest.raises(ValueError, match=r"`n_top` must be an int in \[1, inf\); got 0"):
        found_in(x, n_top=0)
    with pytest.raises(ValueError, match=r"`quantile` must be a finite number in \[0, 1\]; got 2"):
        found_in(x).at_quantile(2.0)
    with pytest.raises(ValueError, match=r"`n` must be an int in \[1, 4\]; got 5"):
        found_in(x, n_sample=4).at_quantile(0.5, n=5)
