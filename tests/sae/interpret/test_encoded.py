import pytest
import torch
from torch import Tensor

import sae
from sae.cache import as_source
from sae.interpret import EncodedRows


def model_of(n_features: int = 8, n_latents: int = 24, k: int = 3) -> sae.TopK:
    return sae.TopK(n_features=n_features, n_latents=n_latents, k=k, seed=1)


def rows(n: int = 50) -> Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block_rows", [1, 7, 50, 4096])
@pytest.mark.parametrize("keep_bytes", [0, 300, 2**20])
def test_blocks_are_the_codes_of_the_rows(block_rows: int, keep_bytes: int) -> None:
    model, x = model_of(), rows()
    encoded = EncodedRows(model, as_source(x), block_rows=block_rows, keep_bytes=keep_bytes)
    for _ in range(2):
        parts = [(start, codes.to_dense()) for start, codes in encoded.blocks()]
        assert [start for start, _ in parts] == list(range(0, 50, block_rows))
        dense = torch.cat([part for _, part in parts])
        torch.testing.assert_close(dense, model.eval().encode(x).to_dense())


@pytest.mark.parametrize("keep_bytes", [0, 2**20])
def test_values_at_pairs_in_any_order(keep_bytes: int) -> None:
    model, x = model_of(), rows()
    encoded = EncodedRows(model, as_source(x), block_rows=16, keep_bytes=keep_bytes)
    dense = torch.cat([codes.to_dense() for _, codes in encoded.blocks()])
    chosen = torch.randint(0, 50, (400,)), torch.randint(0, 24, (400,))  # pairs repeat
    assert torch.equal(encoded.values_at(latents=chosen[1], rows=chosen[0]), dense[chosen])
    none = torch.zeros(0, dtype=torch.long)
    assert encoded.values_at(none, none).shape == (0,)


def test_kept_blocks_are_encoded_once() -> None:
    encoded_rows: list[int] = []
    encoded = EncodedRows(
        model_of(), as_source(rows()), block_rows=20, progress=encoded_rows.append
    )
    for _ in range(3):
        list(encoded.blocks())
    assert encoded_rows == [20, 20, 10]
    again = EncodedRows(
        model_of(), as_source(rows()), block_rows=20, keep_bytes=0, progress=encoded_rows.append
    )
    list(again.blocks())
    again.values_at(torch.tensor([0]), torch.tensor([45]))
    assert encoded_rows[3:] == [20, 20, 10, 10]


def test_the_first_rows_only() -> None:
    encoded = EncodedRows(model_of(), as_source(rows()), max_rows=33, block_rows=16)
    assert encoded.n_rows == 33
    assert [codes.n_rows for _, codes in encoded.blocks()] == [16, 16, 1]


def test_inference_mode_is_used_and_put_back() -> None:
    model = sae.KSparse(n_features=8, n_latents=24, k=2, alpha=2.0, seed=0).train()
    encoded = EncodedRows(model, as_source(rows()))
    assert model.training
    n_active = encoded.block(0).n_active
    assert model.training
    assert int(n_active.max()) == 4


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rows of n_features = 8; got 5\. Is it the activation"):
        EncodedRows(model_of(), as_source(torch.randn(10, 5)))
